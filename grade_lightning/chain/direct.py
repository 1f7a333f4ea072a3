"""The direct gradient: how reward and KL react to the completion's tokens themselves, the policy's weights held fixed."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grade_lightning.chain.divergence import kl_gradients
from grade_lightning.chain.parallel import read_relaxed
from grade_lightning.chain.sequential import RelaxedRollout
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward, Scored
from grade_lightning.rollout.types import Rollout


class DirectGradient(NamedTuple):
    """Result of :func:`direct_gradient`.

    Attributes:
        weights: [B, T, k] gradient of the objective with respect to the relaxed weights; where they were asked for apart, of the scores.
        kl_weights: [B, T, k] of the KL alone where it was asked for apart; None = it is in ``weights``.
        hidden: [B, T, d] gradient of the summed KL with respect to the policy's predicting states.
        scored: rewards of the tokens as they were fed (hard in value if straight-through), detached.
        kl: [B, T] exact KL.
        reference_hidden: [B, T, d] the reference's predicting states.
    """

    weights: Float[Tensor, "B T k"]
    kl_weights: Float[Tensor, "B T k"] | None
    hidden: Float[Tensor, "B T d"]
    scored: Scored
    kl: Float[Tensor, "B T"]
    reference_hidden: Float[Tensor, "B T d"]


def direct_gradient(
    policy: Policy, reward: Reward, rollout: Rollout, relaxed: RelaxedRollout, *, score_weight: float | Float[Tensor, " B"],
    kl_weight: float, apart: bool = False,
) -> DirectGradient:  # fmt: skip
    """Differentiate ``sum(score_weight * scores) + kl_weight * sum(KL)`` with respect to the relaxed weights.

    The policy's states are held fixed here, so the KL contributes what the *reference* predicts differently when a token
    changes; what the policy's own states contribute is returned as ``hidden``.  Reward and reference read the same tokens with
    the same frozen base, so one pass serves both where the reward allows it.

    Args:
        policy: with its adapters disabled it is the reference.
        reward: gives the scores.
        rollout: what was sampled.
        relaxed: the rollout evaluated again; only its values are used.
        score_weight: weight of the scores, of all or of each.
        kl_weight: weight of the summed KL.
        apart: give the gradients of scores and KL each by itself.
    """
    leaf = relaxed.weights.detach().requires_grad_()
    with policy.reference():
        _, found, reference_hidden = read_relaxed(policy, reward, rollout, leaf)
        divergence = kl_gradients(policy, relaxed.hidden, reference_hidden, rollout.mask)
        objective, penalty = (score_weight * found.scores).sum(), kl_weight * (reference_hidden * divergence.reference_hidden).sum()
        of_kl = torch.autograd.grad(penalty, leaf, retain_graph=True)[0] if apart else None
        (gradient,) = torch.autograd.grad(objective if apart else objective + penalty, leaf)
    return DirectGradient(gradient, of_kl, divergence.hidden, found.detach(), divergence.kl, reference_hidden.detach())
