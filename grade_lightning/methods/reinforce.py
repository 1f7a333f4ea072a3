"""REINFORCE with a moving-average baseline."""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.methods.base import Shared
from grade_lightning.methods.policy_gradient import SequencePolicyGradient

NORMALISATIONS = ("none", "batch")


class REINFORCE(SequencePolicyGradient):
    """grad E[(r - b) log pi(y)] over whole sequences (eq. 5), b an exponential moving average of rewards.

    The baseline is used before it is updated with the current batch, and starts at the step-0 validation reward (without a
    validation, at the first batch's mean).

    Args:
        shared: see :class:`Shared`.
        baseline_momentum: b <- momentum b + (1 - momentum) mean reward (paper: 0.9).
        advantage_normalisation: ``none``, or ``batch``: zero mean and unit standard deviation (ddof 1) over the effective batch,
            which leaves the baseline without effect.
    """

    baseline: Tensor

    def __init__(self, shared: Shared, *, baseline_momentum: float = 0.9, advantage_normalisation: str = "none"):
        super().__init__(shared)
        if not 0.0 <= baseline_momentum < 1.0:
            raise ValueError(f"method.baseline_momentum must lie in [0, 1), got {baseline_momentum}")
        if advantage_normalisation not in NORMALISATIONS:
            raise ValueError(f"protocol.advantage_normalisation={advantage_normalisation} is unknown: use {' or '.join(NORMALISATIONS)}")
        self.momentum, self.normalisation = baseline_momentum, advantage_normalisation
        self._used = float("nan")  # the baseline of the last step, as it was before its update
        self.register_buffer("baseline", torch.tensor(float("nan"), dtype=torch.float64))

    def on_fit_start(self) -> None:
        if self.baseline.isnan() and self.last_evaluation:
            self.baseline.fill_(self.last_evaluation["reward_mean"])

    def schedule_values(self, step: int) -> dict[str, float]:
        return {"baseline": self._used}

    def advantages(self, rewards: Tensor) -> Tensor:
        mean = rewards.double().mean()
        if self.baseline.isnan():
            self.baseline.copy_(mean)
        self._used = float(self.baseline)
        advantages = rewards - self.baseline.to(rewards.dtype)
        self.baseline.mul_(self.momentum).add_((1.0 - self.momentum) * mean)
        if self.normalisation == "batch":
            advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        return advantages
