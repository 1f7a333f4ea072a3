"""Reading recorded hard tokens in one parallel pass."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Completions, Reward, Scored, scored
from grade_lightning.rollout.types import Rollout


def predicting(before: Float[Tensor, "B P d"], states: Float[Tensor, "B S d"], tokens: int) -> Float[Tensor, "B T d"]:
    """The states that predict a completion's tokens: the prompt's last one, then those at every token but the last.

    Args:
        before: states at the prompts.
        states: states at the completions' tokens; the one at the last token, which predicts nothing, may be left out.
        tokens: T, length of the completions.
    """
    return torch.cat([before[:, -1:], states[:, : tokens - 1]], dim=1)


def _split(hidden: Tensor, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """States of the whole sequences, at prompts and at completions."""
    width = rollout.prompt.ids.shape[1]
    return hidden[:, :width], hidden[:, width:]


def _read(policy: Policy, rollout: Rollout) -> tuple[Tensor, Tensor]:
    """States [B, P, d] at prompts and [B, T, d] at hard tokens: in one pass, but as :meth:`Policy.states` does it where completions share
    prompts and a processor has to compute less then."""
    prompt = rollout.prompt
    if prompt.group > 1 and policy.device.type == "cpu" and not policy.drops:
        return policy.states(prompt.ids, prompt.mask, policy.embed(rollout.completion_ids), rollout.mask, group=prompt.group)
    embeds = policy.embed(torch.cat([prompt.ids, rollout.completion_ids], dim=1))
    return _split(policy.hidden(embeds, rollout.whole_mask), rollout)


def hard_hidden(policy: Policy, rollout: Rollout) -> Float[Tensor, "B T d"]:
    """The policy's states [B, T, d] that predict the completion's hard tokens, all at once."""
    return predicting(*_read(policy, rollout), rollout.mask.shape[1])


def completions_of(policy: Policy, rollout: Rollout, weights: Tensor | None = None) -> Completions:
    """A rollout as rewards see it.

    Args:
        policy: wrote it.
        rollout: B completions.
        weights: [B, T, k] relaxed weights of the recorded candidates; None = hard tokens.
    """
    soft = None if weights is None else rollout.soft(weights)
    return Completions(rollout.prompt, rollout.completion_ids, rollout.mask, policy.tokenizer, soft)


class Frozen(NamedTuple):
    """What frozen models say of hard completions.

    Attributes:
        completions: with the reference's states.
        scored: by the reward.
        reference_hidden: [B, T, d] the reference's predicting states.
    """

    completions: Completions
    scored: Scored
    reference_hidden: Float[Tensor, "B T d"]


@torch.no_grad()
def read_frozen(policy: Policy, reward: Reward, rollout: Rollout) -> Frozen:
    """Read the hard tokens in one frozen pass, which serves reference and reward where the reward allows it."""
    with policy.reference():
        before, states = _read(policy, rollout)
        completions = completions_of(policy, rollout).with_states(torch.cat([before, states], dim=1))
        found = scored(reward, completions)
    return Frozen(completions, found, predicting(before, states, rollout.mask.shape[1]))


def read_relaxed(policy: Policy, reward: Reward, rollout: Rollout, weights: Float[Tensor, "B T k"]) -> Frozen:
    """Read relaxed tokens with the frozen base, all of it differentiable in their weights; to be called, and differentiated, inside
    ``policy.reference()``.

    Args:
        policy: with its adapters disabled.
        reward: differentiable in relaxed tokens.
        rollout: B completions.
        weights: of the recorded candidates.
    """
    prompt, mask = rollout.prompt, rollout.mask
    before, states = policy.states(prompt.ids, prompt.mask, policy.embed_soft(rollout.soft(weights), mask), mask, group=prompt.group)
    shared = torch.cat([before, states], dim=1) if reward.reads_states else None
    completions = completions_of(policy, rollout, weights).with_states(shared)
    return Frozen(completions, scored(reward, completions), predicting(before, states, mask.shape[1]))


def read_with_gradient(policy: Policy, reward: Reward, rollout: Rollout) -> tuple[Frozen, Float[Tensor, "B T k"]]:
    """What frozen models say of hard completions, and the gradient of the summed scores in the weights of the recorded candidates there.

    Args:
        policy: wrote the completions.
        reward: differentiable in relaxed tokens.
        rollout: hard completions.
    """
    onehot = torch.zeros_like(rollout.noise, dtype=policy.embed(rollout.completion_ids[:1, :1]).dtype)
    leaf = onehot.scatter_(-1, rollout.hard.unsqueeze(-1), 1.0).requires_grad_()
    with policy.reference():
        frozen = read_relaxed(policy, reward, rollout, leaf)
        (gradient,) = torch.autograd.grad(frozen.scored.scores.sum(), leaf)
    return Frozen(frozen.completions, frozen.scored.detach(), frozen.reference_hidden.detach()), gradient
