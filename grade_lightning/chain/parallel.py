"""Reading recorded hard tokens in one parallel pass."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.rewards.classifier import Reward
from grade_lightning.rollout.types import Rollout


def predicting(hidden: Float[Tensor, "B whole d"], prompt_width: int) -> Float[Tensor, "B T d"]:
    """The T states that predict the T completion tokens, of the states [B, P + T, d] of the whole sequence."""
    return hidden[:, prompt_width - 1 : -1]


def hard_hidden(policy: Policy, rollout: Rollout) -> Float[Tensor, "B T d"]:
    """The policy's states [B, T, d] that predict the completion's hard tokens, from one parallel pass."""
    embeds = policy.embed(torch.cat([rollout.prompt.ids, rollout.completion_ids], dim=1))
    return predicting(policy.hidden(embeds, rollout.whole_mask), rollout.prompt.ids.shape[1])


@torch.no_grad()
def read_frozen(policy: Policy, reward: Reward, rollout: Rollout) -> tuple[Float[Tensor, " B"], Float[Tensor, "B T d"]]:
    """Scores [B] of the hard tokens and the reference's predicting states [B, T, d], from one frozen pass where the reward allows it."""
    prompt = rollout.prompt
    with policy.reference():
        embeds = policy.embed(torch.cat([prompt.ids, rollout.completion_ids], dim=1))
        hidden = policy.hidden(embeds, rollout.whole_mask)
        shared = hidden if reward.uses_reference_pass else None
        scores = reward.score(prompt.ids, prompt.mask, rollout.completion_ids, rollout.mask, hidden=shared)
    return scores, predicting(hidden, prompt.ids.shape[1])
