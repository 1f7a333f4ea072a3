"""Evaluating recorded hard tokens in one parallel pass."""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.rollout.types import Rollout


def predicting(hidden: Tensor, prompt_width: int) -> Tensor:
    """The T states that predict the T completion tokens, of the states [B, P + T, d] of the whole sequence."""
    return hidden[:, prompt_width - 1 : -1]


def completion_logits(policy: Policy, rollout: Rollout) -> Tensor:
    """Logits of every completion token given the hard tokens before it.  -> [B, T, V]; with gradients unless disabled."""
    embeds = policy.embed(torch.cat([rollout.prompt.ids, rollout.completion_ids], dim=1))
    return policy.logits(predicting(policy.hidden(embeds, rollout.whole_mask), rollout.prompt.ids.shape[1]))
