"""Straight-through at the start, a policy gradient in the end."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grade_lightning.chain.logprobs import statistics_beside
from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.grade import Beside, Evaluated, GradeGradient
from grade_lightning.methods.gradients import Apart, give_gradient, take_gradient
from grade_lightning.methods.group import GRPOGradient, RLOOGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import Sampled, SequencePolicyGradient
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.relaxed import AnnealedSettings


class AnnealedGradient(Method):
    """w_n straight-through + (1 - w_n) RLOO (or GRPO) of the same hard rollouts, w_n = half / (half + n) after n policy steps.

    Straight-through has little noise and a bias that stays; RLOO has no bias and much noise.  Early in training noise is what holds a
    policy back, late it is bias.  Both parts have a gradient of the KL: straight-through's goes through the tokens too, RLOO's through the
    states alone.  ``reward_gain`` makes straight-through's reward gradient about as long as RLOO's where it is near 1 / c, c being cosine
    times ratio of lengths: the weight of the KL then means about the same from the first step to the last.  GRPO's gradient, reward and KL
    alike, is divided by what its normalisation makes of RLOO's advantages A in that step, <w, A> / <A, A> with w the normalised ones: it
    weighs prompts as GRPO does and is as long along A as RLOO's.

    Args:
        context, settings, **values: see :class:`Method` and :class:`grade_lightning.settings.relaxed.AnnealedSettings`.
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
        share = self.share(step)
        if share < 1 and self.pathwise.calibration is None and self.settings.backprop == "adjoint":
            self._at_once(rollouts, totals, meter, step, share)
        else:
            self._one_by_one(rollouts, totals, meter, step, share, plainly=False)

    def accumulate_plainly(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        self._one_by_one(rollouts, totals, meter, step, self.share(step), plainly=True)

    def _at_once(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, share: float) -> None:
        """Both parts by one pass forward and one backward through the policy: they meet at its states, where straight-through's gradient
        has been through later tokens already and the policy gradient's, which goes through none, is added."""
        pathwise, sampled, unused = self.pathwise, self.sampled, Meter(self.policy.device)
        pathwise.apart = self.apart
        weights = pathwise.reward_weights(rollouts)

        def descend(found: Evaluated, one: Sampled, advantages: Tensor) -> None:
            beside = self._beside(one, advantages, found, self._scaled(1 - share), totals, unused)
            pathwise.descend(found, meter, share=share, beside=beside)
            pathwise.measure(found, meter, step)

        if len(rollouts) == 1:  # nobody else's scores to wait for: they come with their gradient
            with self.dropout(rollouts[0], step):
                found = pathwise.evaluate(rollouts[0], weights[0], totals, step)
                read = Sampled(rollouts[0], found.direct.scored.scores, found.direct.reference_hidden)
                descend(found, *sampled.credit([read], totals, unused)[0])
        else:
            credited = sampled.credit([sampled.read(rollout, unused) for rollout in rollouts], totals, unused)
            for (one, advantages), weight in zip(credited, weights, strict=True):
                with self.dropout(one.rollout, step):
                    descend(pathwise.evaluate(one.rollout, weight, totals, step), one, advantages)
        self._report(unused, meter)

    def _beside(  # noqa: PLR0917
        self, one: Sampled, advantages: Tensor, found: Evaluated, share: float, totals: Totals, meter: Meter
    ) -> Beside:  # fmt: skip
        """The policy gradient's share, as gradients in the policy's states."""
        hidden = found.relaxed.hidden.detach().requires_grad_()
        if self.context.protocol.logprobs == "matched":  # of the candidates: with the KL, which is known, nothing needs the vocabulary
            known = statistics_beside(self.policy, one.rollout, hidden, found.direct.kl, found.direct.hidden)
        else:
            known = self.sampled.statistics(one, hidden)
        reward, kl = self.sampled.losses(one, advantages, known, totals, meter)
        of_kl = None if self.apart is None else torch.autograd.grad(share * kl, hidden, retain_graph=True)[0]
        return Beside(torch.autograd.grad(share * (reward + kl), hidden)[0], of_kl)

    def _scaled(self, share: float) -> float:
        """A share of the policy gradient, brought to RLOO's length; at a scale of 0 there is no gradient."""
        return share / self.sampled.reward_scale if self.sampled.reward_scale > 0 else share

    @staticmethod
    def _report(measured: Meter, meter: Meter) -> None:
        """Of the policy gradient's measurements those that straight-through has none of."""
        found = measured.compute()
        meter.update(advantage_std=found["advantage_std"], reward_scale=found["reward_scale"])

    def _one_by_one(
        self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, share: float, *, plainly: bool
    ) -> None:  # fmt: skip
        """Each part by itself."""
        weights, unused = list(self.policy.trainable().values()), Meter(self.policy.device)
        before = take_gradient(weights)
        found = self._of(self.pathwise, rollouts, totals, meter, step, share, plainly)
        if share < 1:
            sampled = self._of(self.sampled, rollouts, totals, unused, step, 1 - share, plainly)
            found = tuple(a + b for a, b in zip(found, sampled, strict=True))
            self._report(unused, meter)
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
        share = self._scaled(share) if part is self.sampled else share
        whole = share * take_gradient(weights)
        return (whole,) if part.apart is None else (whole, share * part.apart.reward, share * part.apart.kl)


def _policy_gradient(context: Context, settings: AnnealedSettings) -> SequencePolicyGradient:
    if settings.policy_gradient == "rloo":
        return RLOOGradient(context, completions_per_prompt=settings.completions_per_prompt)
    gradient = GRPOGradient(context, completions_per_prompt=settings.completions_per_prompt, match_kl=True)
    gradient.by_step = True  # all of it is brought to RLOO's length step by step, and the KL comes back to its own
    return gradient
