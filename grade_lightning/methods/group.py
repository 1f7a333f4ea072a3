"""Methods that compare several completions of the same prompt: RLOO and GRPO."""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.estimators import grpo_advantages, rloo_advantages
from grade_lightning.methods.base import Shared
from grade_lightning.methods.policy_gradient import SequencePolicyGradient
from grade_lightning.rollout.types import Rollout


class _Group(SequencePolicyGradient):
    def __init__(self, shared: Shared, *, completions_per_prompt: int = 4):
        if completions_per_prompt < 2:
            raise ValueError(f"method.completions_per_prompt must be at least 2, got {completions_per_prompt}")
        super().__init__(shared, completions_per_prompt=completions_per_prompt)

    def grouped(self, rewards: Tensor) -> Tensor:
        """[P G] -> [P, G]."""
        return rewards.view(-1, self.completions_per_prompt)


class RLOO(_Group):
    """REINFORCE whose baseline is the mean reward of the prompt's other completions: see :func:`rloo_advantages`.

    Args:
        shared: see :class:`Shared`.
        completions_per_prompt: G >= 2.
    """

    def advantages(self, rewards: Tensor) -> Tensor:
        return rloo_advantages(self.grouped(rewards)).flatten()


class GRPO(_Group):
    """Group-relative policy optimisation with one update a batch, where every ratio is 1 and no clipping can act.

    Args:
        shared: see :class:`Shared`.
        completions_per_prompt: G >= 2.
        variant: ``grpo``: advantages over the group's standard deviation, log-probabilities averaged over a completion's own
            length; ``dr_grpo``: neither, every sum divided by the longest possible length (Liu et al. 2503.20783).
    """

    def __init__(self, shared: Shared, *, completions_per_prompt: int = 4, variant: str = "grpo"):
        super().__init__(shared, completions_per_prompt=completions_per_prompt)
        if variant not in ("grpo", "dr_grpo"):
            raise ValueError(f"method.variant={variant} is unknown: use grpo or dr_grpo")
        self.doctor = variant == "dr_grpo"

    def advantages(self, rewards: Tensor) -> Tensor:
        return grpo_advantages(self.grouped(rewards), normalise_std=not self.doctor).flatten()

    def lengths(self, rollout: Rollout) -> Tensor:
        own = rollout.mask.sum(dim=1)
        return torch.full_like(own, self.shared.rollout.max_new_tokens) if self.doctor else own
