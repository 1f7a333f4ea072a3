"""Temperature schedules and straight-through relaxations: what their functions take beside logits and steps."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from grade_lightning.settings.fields import Bool, Float, Int, key, settings


@settings
class AnnealedSettings:
    """tau goes from its start to its end over anneal_steps and stays there."""

    start: Float = key("tau at the first policy step", gt=0, le=1000)
    end: Float = key("tau at the end of the schedule", gt=0, le=1000)
    anneal_steps: Int = key("policy steps in between", ge=1)


@settings
class ConstantSettings:
    """tau never changes."""

    value: Float = key("tau", default=1.0, gt=0, le=1000)


@settings
class AdaptiveSettings:
    """tau follows a measurement: raised while it is on the wrong side of its target, lowered while on the other."""

    start: Float = key("tau at the first policy step", gt=0, le=1000)
    metric: Literal["largest_weight", "first_ratio"] = key(
        "what is steered: mean largest token weight, or size of the adjoint's first hop", default="largest_weight"
    )
    target: Float = key("of the metric", default=0.6, gt=0)
    rate: Float = key("largest change of log tau in one policy step", default=0.1, gt=0, le=10)
    falls_with_tau: Bool = key("whether a higher tau lowers the metric", default=True)
    minimum: Float = key("least tau", default=0.1, gt=0, le=1000)
    maximum: Float = key("largest tau", default=5.0, gt=0, le=1000)

    @model_validator(mode="after")
    def _range(self) -> AdaptiveSettings:
        if not self.minimum <= self.start <= self.maximum:
            raise ValueError(f"start={self.start} must lie between minimum={self.minimum} and maximum={self.maximum}")
        return self


SCHEDULES: dict[str, type] = {
    "grade_lightning.estimators.linear_temperature": AnnealedSettings,
    "grade_lightning.estimators.cosine_temperature": AnnealedSettings,
    "grade_lightning.estimators.exponential_temperature": AnnealedSettings,
    "grade_lightning.estimators.constant_temperature": ConstantSettings,
    "grade_lightning.estimators.AdaptiveTemperature": AdaptiveSettings,
}


@settings
class PlainRelaxationSettings:
    """A relaxation without settings of its own."""


@settings
class GumbelRaoSettings:
    """Gumbel-Rao (2010.04838)."""

    samples: Int = key("inner draws", default=16, ge=1, le=100_000)


RELAXATIONS: dict[str, type] = {
    "grade_lightning.estimators.decoupled_st_weights": PlainRelaxationSettings,
    "grade_lightning.estimators.entropy_gated_weights": PlainRelaxationSettings,
    "grade_lightning.estimators.reinmax_weights": PlainRelaxationSettings,
    "grade_lightning.estimators.gumbel_rao_weights": GumbelRaoSettings,
}
