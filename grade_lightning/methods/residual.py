"""Straight-through for what a surrogate knows of the reward, and a policy gradient for the rest."""

from __future__ import annotations

import dataclasses
from typing import Any

from torch import Tensor

from grade_lightning.distributed import sum_tensor
from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.gradients import give_gradient, take_gradient
from grade_lightning.methods.group import RLOOGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.rewards.surrogate import EstimatedReward, RestReward, SurrogateReward
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.relaxed import ResidualSettings
from grade_lightning.settings.rules import NEEDS_SURROGATE


class ResidualGradient(Method):
    """The gradient of E[r^] by straight-through plus that of E[r - r^] by RLOO, from the same hard rollouts.

    r^ was fitted to earlier steps, so that both expectations are of a fixed function: where the first part were unbiased, the sum would be,
    whatever r^ is.  Only r^'s part carries the straight-through bias, only the rest has the policy gradient's variance.  The KL stands in
    the first part alone.  ``reward_gain`` is of the first part's reward: calibrated, it is learned from RLOO's gradient of r^ itself, so
    that the sum is right in length where both are.

    Args:
        context: its reward is a :class:`grade_lightning.rewards.surrogate.SurrogateReward`.
        settings, **values: see :class:`Method` and :class:`grade_lightning.settings.relaxed.ResidualSettings`.

    Raises:
        ValueError: the reward is no surrogate.
    """

    Settings = ResidualSettings

    def __init__(self, context: Context, settings: ResidualSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        if not isinstance(context.reward, SurrogateReward):
            raise ValueError(NEEDS_SURROGATE)
        own: ResidualSettings = self.settings
        relaxed = {field.name: getattr(own, field.name) for field in dataclasses.fields(own)}
        self.pathwise = GradeGradient(context, measured_by=EstimatedReward(context.reward), diagnostics_every=0, **relaxed)
        rest = dataclasses.replace(context, reward=RestReward(context.reward), kl_coef=0.0)
        self.rest = RLOOGradient(rest, completions_per_prompt=own.completions_per_prompt)

    def schedule_values(self, step: int) -> dict[str, float]:
        return self.pathwise.schedule_values(step)

    def observe(self, measured: dict[str, float]) -> None:
        self.pathwise.observe(measured)

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        self._accumulate(rollouts, totals, meter, step, plainly=False)

    def accumulate_plainly(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        self._accumulate(rollouts, totals, meter, step, plainly=True)

    def _accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, *, plainly: bool) -> None:
        weights = list(self.policy.trainable().values())
        self.pathwise.apart = self.rest.apart = self.apart  # both add to the whole; the KL is the first one's
        before = take_gradient(weights)
        (self.pathwise.accumulate_plainly if plainly else self.pathwise.accumulate)(rollouts, totals, meter, step)
        pathwise, unused = take_gradient(weights), Meter(self.policy.device)
        self.rest.accumulate(rollouts, totals, unused, step)
        rest = take_gradient(weights)
        found = unused.compute()
        meter.update(rest_std=found["advantage_std"], entropy=found["entropy"], rest_to_pathwise=_ratio(rest, pathwise))
        give_gradient(weights, before + pathwise + rest)


def _ratio(rest: Tensor, pathwise: Tensor) -> float:
    """Length of one gradient over that of the other, both of all processes together; 0 where there is no other."""
    lengths = [float(sum_tensor(part).norm()) for part in (rest, pathwise)]
    return lengths[0] / lengths[1] if lengths[1] else 0.0
