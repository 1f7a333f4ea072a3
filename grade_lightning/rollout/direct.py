"""The direct gradient: how reward and KL react to the completion's tokens themselves, the policy's weights held fixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.models.reward import Reward
from grade_lightning.rollout.parallel import predicting
from grade_lightning.rollout.types import Rollout


class DirectGradient(NamedTuple):
    """Result of :func:`direct_gradient`.

    Attributes:
        weights_gradient: [B, T, k] gradient of the objective with respect to the relaxed weights.
        scores: [B] rewards of the tokens as they are fed (hard in value if straight-through).
        reference_logits: [B, T, V] of the reference on the same tokens, detached.
    """

    weights_gradient: Tensor
    scores: Tensor
    reference_logits: Tensor


def direct_gradient(
    policy: Policy, reward: Reward, rollout: Rollout, weights: Tensor, policy_logits: Tensor, *, score_weight: float, kl_weight: float
) -> DirectGradient:
    """Differentiate ``score_weight * sum(scores) + kl_weight * sum(KL)`` with respect to the relaxed weights.

    The policy's logits are held fixed here, so the KL contributes what the *reference* logits change when a token does; what
    the policy's own logits contribute follows from backpropagating the KL through them.  Reward and reference read the same
    tokens with the same frozen base, so one pass serves both where the reward allows it.

    Args:
        weights: [B, T, k] relaxed weights of the recorded candidates; only their values are used.
        policy_logits: [B, T, V]; only their values are used.
    """
    prompt, mask = rollout.prompt, rollout.mask
    leaf = weights.detach().requires_grad_()
    tokens = rollout.soft(leaf)
    probabilities = torch.softmax(policy_logits.detach(), dim=-1)
    with policy.reference():
        embeds = torch.cat([policy.embed(prompt.ids), policy.embed_soft(tokens, mask)], dim=1)
        hidden = policy.hidden(embeds, rollout.whole_mask)
        shared = hidden if reward.uses_reference_pass else None
        scores = reward.score(prompt.ids, prompt.mask, tokens, mask, hidden=shared)
        reference_logits = policy.logits(predicting(hidden, prompt.ids.shape[1]))
        # KL = sum_v p log p - sum_v p log q: only the second part depends on the reference.
        cross_entropy = -(probabilities * torch.log_softmax(reference_logits, dim=-1)).sum(dim=-1)
        objective = score_weight * scores.sum() + kl_weight * torch.where(mask, cross_entropy, 0.0).sum()
        (gradient,) = torch.autograd.grad(objective, leaf)
    return DirectGradient(gradient, scores.detach(), reference_logits.detach())
