"""Straight-through at the start, a policy gradient in the end."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.gradients import Apart, give_gradient, take_gradient
from grade_lightning.methods.group import GRPOGradient, RLOOGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import PolicyGradient
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.methods import AnnealedSettings


class AnnealedGradient(Method):
    """w_n straight-through + (1 - w_n) RLOO (or GRPO) of the same hard rollouts, w_n = half / (half + n) after n policy steps.

    Straight-through has little noise and a bias that stays; RLOO has no bias and much noise.  Early in training noise is what holds a
    policy back, late it is bias.  Both parts have a gradient of the KL: straight-through's goes through the tokens too, RLOO's through the
    states alone.  ``reward_gain`` makes straight-through's reward gradient about as long as RLOO's where it is near 1 / c, c being cosine
    times ratio of lengths: the weight of the KL then means about the same from the first step to the last.  GRPO's gradient, reward and KL
    alike, is divided by what its normalisation makes of RLOO's advantages A in that step, <w, A> / <A, A> with w the normalised ones: it
    weighs prompts as GRPO does and is as long along A as RLOO's.

    Args:
        context, settings, **values: see :class:`Method` and :class:`grade_lightning.settings.methods.AnnealedSettings`.
    """

    Settings = AnnealedSettings

    def __init__(self, context: Context, settings: AnnealedSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        self.pathwise = GradeGradient(context, self.settings)
        self.sampled = _policy_gradient(context.for_policy_gradient(), self.settings)

    def share(self, step: int) -> float:
        """Straight-through's, in policy step ``step``, counted from 1."""
        half = self.settings.half
        return float(half / (half + step - 1))

    def schedule_values(self, step: int) -> dict[str, float]:
        return {**self.pathwise.schedule_values(step), "st_share": self.share(step)}

    def observe(self, measured: dict[str, float]) -> None:
        self.pathwise.observe(measured)

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        self._accumulate(rollouts, totals, meter, step, plainly=False)

    def accumulate_plainly(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        self._accumulate(rollouts, totals, meter, step, plainly=True)

    def _accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, *, plainly: bool) -> None:
        weights, share, unused = list(self.policy.trainable().values()), self.share(step), Meter(self.policy.device)
        before = take_gradient(weights)
        found = self._of(self.pathwise, rollouts, totals, meter, step, share, plainly)
        if share < 1:
            sampled = self._of(self.sampled, rollouts, totals, unused, step, 1 - share, plainly)
            found = tuple(a + b for a, b in zip(found, sampled, strict=True))
            measured = unused.compute()
            meter.update(advantage_std=measured["advantage_std"], reward_scale=measured["reward_scale"])
        whole, *parts = found
        give_gradient(weights, before + whole)
        if self.apart is not None:
            self.apart.set(*parts)

    def _of(  # noqa: PLR0917
        self, part: Method, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, share: float, plainly: bool
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """A part's share of the whole gradient [D]; where they are wanted apart, of the reward's and the KL's too."""
        weights = list(self.policy.trainable().values())
        part.apart = None if self.apart is None else Apart(weights)
        (part.accumulate_plainly if plainly else part.accumulate)(rollouts, totals, meter, step)
        if isinstance(part, PolicyGradient) and part.reward_scale > 0:  # at 0 all of it is
            share /= part.reward_scale
        whole = share * take_gradient(weights)
        return (whole,) if part.apart is None else (whole, share * part.apart.reward, share * part.apart.kl)


def _policy_gradient(context: Context, settings: AnnealedSettings) -> PolicyGradient:
    if settings.policy_gradient == "rloo":
        return RLOOGradient(context, completions_per_prompt=settings.completions_per_prompt)
    gradient = GRPOGradient(context, completions_per_prompt=settings.completions_per_prompt, match_kl=True)
    gradient.by_step = True  # all of it is brought to RLOO's length step by step, and the KL comes back to its own
    return gradient
