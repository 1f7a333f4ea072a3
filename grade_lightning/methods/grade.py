"""GRADE and GRADE-STE: ascend the reward by backpropagation through the generated tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from grade_lightning.chain.adjoint import adjoint_backward, relax_in_parallel
from grade_lightning.chain.direct import direct_gradient
from grade_lightning.chain.divergence import kl_gradients
from grade_lightning.chain.parallel import completions_of
from grade_lightning.chain.sequential import relax_sequentially
from grade_lightning.estimators import AdaptiveTemperature, gumbel_softmax_weights
from grade_lightning.methods.base import Context, Method, Schedule, Totals, score_measurements
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.methods import GradeSettings


class GradeGradient(Method):
    """L = -E[r] + beta KL(policy || reference) (eq. 16), differentiated through relaxed tokens.

    Args:
        context, settings, **values: see :class:`Method` and :class:`grade_lightning.settings.methods.GradeSettings`.  ``temperature`` is
            tau as a function of the number of policy steps already made; ``relaxation`` a function (logits, noise, tau, *, hard) ->
            one-hot weights with a gradient, of :mod:`grade_lightning.estimators`, in place of straight-through Gumbel-softmax.
    """

    Settings = GradeSettings

    def __init__(self, context: Context, settings: GradeSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        self.straight_through_weights = self.settings.relaxation or gumbel_softmax_weights
        self.temperature: Schedule = self.settings.temperature

    def schedule_values(self, step: int) -> dict[str, float]:
        return {"tau": self.temperature(step - 1)}

    def _relax(self, step: int, straight_through: bool) -> Relaxation:
        tau = self.temperature(step - 1)

        def relax(logits: Tensor, noise: Tensor, hard: Tensor) -> Tensor:
            if straight_through:
                return self.straight_through_weights(logits, noise, tau, hard=hard)
            return gumbel_softmax_weights(logits, noise, tau, straight_through=False)

        return relax

    def observe(self, measured: dict[str, float]) -> None:
        if isinstance(self.temperature, AdaptiveTemperature):
            self.temperature.observe(measured)

    def get_extra_state(self) -> dict[str, float]:
        """What a temperature that follows a measurement has come to; part of a checkpoint."""
        return self.temperature.state_dict() if isinstance(self.temperature, AdaptiveTemperature) else {}

    def set_extra_state(self, state: dict[str, float]) -> None:
        """Take back what :meth:`get_extra_state` gave."""
        if isinstance(self.temperature, AdaptiveTemperature):
            self.temperature.load_state_dict(state)

    def relaxation(self, step: int) -> Relaxation | None:
        return None if self.settings.straight_through else self._relax(step, straight_through=False)

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        for rollout in rollouts:
            with self.dropout(rollout, step):
                self._accumulate(rollout, totals, meter, step)

    def _accumulate(self, rollout: Rollout, totals: Totals, meter: Meter, step: int) -> None:
        """Of one micro-batch."""
        tokens, settings, protocol = max(1, rollout.tokens), self.settings, self.context.protocol
        kl_weight = self.context.kl_in_loss * totals.kl_weight(protocol.kl_reduction)
        relax = self._relax(step, settings.straight_through)
        parallel = relax_in_parallel(self.policy, rollout, relax) if settings.backprop == "adjoint" else None
        relaxed = parallel.relaxed if parallel else relax_sequentially(self.policy, rollout, relax)
        direct = direct_gradient(self.policy, self.reward, rollout, relaxed, score_weight=-1.0 / totals.samples, kl_weight=kl_weight)
        # The direct gradient reaches the policy through the weights; the KL also through the policy's own states.
        objective = (relaxed.weights * direct.weights).sum() + kl_weight * (relaxed.hidden * direct.hidden).sum()
        if parallel:
            report = adjoint_backward(self.policy, rollout, parallel, objective, tol=settings.tol, max_hops=settings.max_hops)
            meter.update(
                len(rollout),
                hops=report.hops,
                first_ratio=report.first_ratio,
                last_ratio=report.last_ratio,
                residual=report.residual,
                truncated=float(report.truncated),
                limited_by_rounding=float(report.limited_by_rounding),
            )
        else:
            objective.backward()
        meter.update(len(rollout), **score_measurements(self.reward, direct.scored))
        meter.update(tokens, kl=direct.kl.sum() / tokens)
        with torch.no_grad():
            if protocol.kl_alignment == "shifted":
                pairs = int(rollout.mask[:, 1:].sum())
                shifted = shifted_kl(self.policy, relaxed.hidden, direct.reference_hidden, rollout.mask)
                meter.update(pairs, kl_shifted=shifted / max(1, pairs))
            soft = self._relax(step, straight_through=False)(relaxed.candidates, rollout.noise, rollout.hard)
            meter.update(tokens, largest_weight=(soft.amax(dim=-1) * rollout.mask).sum() / tokens)
            if self.reward.soft and settings.diagnostics_every and step % settings.diagnostics_every == 0:
                meter.update(len(rollout), soft_hard_gap=self._soft_hard_gap(rollout, soft))

    def _soft_hard_gap(self, rollout: Rollout, soft: Tensor) -> Tensor:
        """Mean reward of the soft sample minus that of the hard one, on the same noise."""
        mixed, hard = completions_of(self.policy, rollout, soft), completions_of(self.policy, rollout)
        return (self.reward.score(mixed) - self.reward.score(hard)).mean()


def shifted_kl(policy: Policy, hidden: Tensor, reference_hidden: Tensor, mask: Tensor) -> Tensor:
    """Sum of KL(policy at t || reference at t + 1) over pairs of tokens: an off-by-one that is above zero even for equal models.  -> []."""
    return kl_gradients(policy, hidden[:, :-1], reference_hidden[:, 1:], mask[:, 1:]).kl.sum()
