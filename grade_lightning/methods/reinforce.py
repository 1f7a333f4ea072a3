"""REINFORCE with a moving-average baseline."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grade_lightning.methods.base import Context
from grade_lightning.methods.policy_gradient import SequencePolicyGradient
from grade_lightning.settings.methods import ReinforceSettings


class ReinforceGradient(SequencePolicyGradient):
    """grad E[(r - b) log pi(y)] over whole sequences (eq. 5), b an exponential moving average of rewards.

    The baseline is used before it is updated with the current batch, and starts at the step-0 validation reward (without a
    validation, at the first batch's mean).

    Args:
        context, settings, **values: see :class:`grade_lightning.methods.base.Method` and
            :class:`grade_lightning.settings.methods.ReinforceSettings`.

    Attributes:
        baseline: b, nan before the first reward is known.
    """

    Settings = ReinforceSettings
    baseline: Tensor

    def __init__(self, context: Context, settings: ReinforceSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        self._plain: Tensor | None = None  # this step's advantages before normalisation
        self._used = float("nan")  # the baseline of the last step, as it was before its update
        self.register_buffer("baseline", torch.tensor(float("nan"), dtype=torch.float64))

    def begin(self, reward: float | None) -> None:
        if self.baseline.isnan() and reward is not None:
            self.baseline.fill_(reward)

    def hold_baseline(self, value: float | None) -> None:
        self.baseline.fill_(float("nan") if value is None else value)

    def unnormalised(self, rewards: Tensor) -> Tensor | None:
        return None if self._plain is None else self._plain - self._plain.mean()  # a constant has no expected gradient

    def schedule_values(self, step: int) -> dict[str, float]:
        return {"baseline": self._used}

    def advantages(self, rewards: Tensor) -> Tensor:
        mean = rewards.double().mean()
        if self.baseline.isnan():
            self.baseline.copy_(mean)
        self._used = float(self.baseline)
        advantages = rewards - self.baseline.to(rewards.dtype)
        momentum = self.settings.baseline_momentum
        self.baseline.mul_(momentum).add_((1.0 - momentum) * mean)
        self._plain = advantages
        if self.settings.advantage_normalisation == "batch":
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return advantages
