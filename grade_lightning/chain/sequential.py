"""Backpropagation through generation, token by token through the KV cache: the reference path."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import DynamicCache

from grade_lightning.chain.candidates import candidate_logits
from grade_lightning.estimators import SoftTokens
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout


class RelaxedRollout(NamedTuple):
    """A rollout evaluated again with gradients.

    Attributes:
        weights: [B, T, k] relaxed weights of the recorded candidates.
        hidden: [B, T, d] the policy's states that predict the tokens.
        candidates: [B, T, k] logits of the recorded candidates as the tokens were drawn from them, without gradients.
    """

    weights: Float[Tensor, "B T k"]
    hidden: Float[Tensor, "B T d"]
    candidates: Float[Tensor, "B T k"]


def as_fed(rollout: Rollout, weights: Float[Tensor, "*tokens k"], t: int | None = None) -> Float[Tensor, "*tokens k"]:
    """Recomputed relaxed weights with the values that the rollout fed forward (soft tokens under dropout would differ).

    Args:
        rollout: what was sampled.
        weights: [B, T, k], or [B, k] of column ``t``.
        t: the column, where there is only one.
    """
    if rollout.weights is None:
        return weights
    fed = rollout.weights if t is None else rollout.weights[:, t]
    return fed + (weights - weights.detach())


def relax_sequentially(policy: Policy, rollout: Rollout, relax: Relaxation) -> RelaxedRollout:
    """Run the recorded rollout again, feeding each relaxed token's embedding (eq. 11) into the next step's graph.

    Noise, candidates and hard tokens are the recorded ones, never drawn or decided again.  Gradients flow through every
    key and value of the cache, so a backward pass through the result is exact backpropagation through the whole chain.

    Args:
        policy: its LoRA weights require gradients.
        rollout: from :func:`grade_lightning.rollout.sampling.sample`.
        relax: candidate logits, noise and hard positions to weights.
    """
    cache = DynamicCache()
    embeds, mask = policy.embed(rollout.prompt.ids), rollout.prompt.mask
    weights, states, all_candidates = [], [], []
    for t in range(rollout.mask.shape[1]):
        state = policy.hidden(embeds, mask, cache=cache)[:, -1:]
        indices = rollout.indices[:, t]
        candidates = rollout.on_support(candidate_logits(policy, state, indices.unsqueeze(1)).squeeze(1), t)
        weight = as_fed(rollout, relax(candidates, rollout.noise[:, t], rollout.hard[:, t]), t)
        alive = rollout.mask[:, t]
        embeds = policy.embed_soft(SoftTokens(indices, weight, rollout.completion_ids[:, t]), alive).unsqueeze(1)
        mask = torch.cat([mask, alive.unsqueeze(1)], dim=1)
        weights.append(weight)
        states.append(state)
        all_candidates.append(candidates.detach())
    return RelaxedRollout(torch.stack(weights, dim=1), torch.cat(states, dim=1), torch.stack(all_candidates, dim=1))
