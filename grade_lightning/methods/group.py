"""Methods that compare several completions of the same prompt: RLOO and GRPO."""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.estimators import grpo_advantages, rloo_advantages
from grade_lightning.methods.policy_gradient import SequencePolicyGradient
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.methods import GRPOSettings, RLOOSettings


class Group(SequencePolicyGradient):
    """Base: rewards of a prompt's completions stand in a row."""

    def grouped(self, rewards: Tensor) -> Tensor:
        """[P G] -> [P, G]."""
        return rewards.view(-1, self.completions_per_prompt)


class RLOOGradient(Group):
    """REINFORCE whose baseline is the mean reward of the prompt's other completions: see :func:`rloo_advantages`."""

    Settings = RLOOSettings

    def advantages(self, rewards: Tensor) -> Tensor:
        return rloo_advantages(self.grouped(rewards)).flatten()


class GRPOGradient(Group):
    """Group-relative policy optimisation with one update a batch, where every ratio is 1 and no clipping can act.

    ``variant=grpo`` divides advantages by the group's standard deviation and averages log-probabilities over a completion's own length;
    ``variant=dr_grpo`` does neither and divides every sum by the longest possible length (Liu et al. 2503.20783).
    """

    Settings = GRPOSettings

    @property
    def is_dr_grpo(self) -> bool:
        """Whether neither spread nor length divides the gradient."""
        return self.settings.variant == "dr_grpo"

    def advantages(self, rewards: Tensor) -> Tensor:
        return grpo_advantages(self.grouped(rewards), normalise_std=not self.is_dr_grpo).flatten()

    def unnormalised(self, rewards: Tensor) -> Tensor:
        return rloo_advantages(self.grouped(rewards)).flatten()

    def lengths(self, rollout: Rollout) -> Tensor:
        own = rollout.mask.sum(dim=1)
        return torch.full_like(own, self.context.rollout.max_new_tokens) if self.is_dr_grpo else own
