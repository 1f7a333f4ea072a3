"""GRADE and GRADE-STE: ascend the reward by backpropagation through the generated tokens."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grade_lightning.chain.adjoint import ParallelRollout, adjoint_backward, relax_in_parallel
from grade_lightning.chain.direct import DirectGradient, direct_gradient
from grade_lightning.chain.divergence import kl_gradients
from grade_lightning.chain.logprobs import sampled_from
from grade_lightning.chain.parallel import completions_of, read_frozen
from grade_lightning.chain.sequential import RelaxedRollout, relax_sequentially
from grade_lightning.distributed import gather_rows, my_rows
from grade_lightning.estimators import AdaptiveTemperature, gumbel_softmax_weights, spread_weights
from grade_lightning.methods.base import Context, Method, Schedule, Totals, score_measurements
from grade_lightning.methods.calibration import Calibration
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.relaxed import GradeSettings, check_feeds


class Evaluated(NamedTuple):
    """One micro-batch at the present weights of the policy.

    Attributes:
        rollout: B completions.
        parallel: the rollout evaluated in one pass; None = token by token.
        relaxed: its relaxed samples and the states that predict them.
        direct: how reward and KL react to the tokens.
        objective: [] loss of reward and KL, a function of ``relaxed``.
        of_kl: [] the KL's part where it is wanted apart.
    """

    rollout: Rollout
    parallel: ParallelRollout | None
    relaxed: RelaxedRollout
    direct: DirectGradient
    objective: Tensor
    of_kl: Tensor | None


class Beside(NamedTuple):
    """Gradients [B, T, d] of another method's loss in the policy's predicting states: of all of it, and of its KL where that is wanted
    apart."""

    whole: Tensor
    of_kl: Tensor | None


class GradeGradient(Method):
    """L = -E[r] + beta KL(policy || reference) (eq. 16), differentiated through relaxed tokens.

    Args:
        context, settings, **values: see :class:`Method` and :class:`grade_lightning.settings.relaxed.GradeSettings`.  ``temperature`` is
            tau as a function of the number of policy steps already made; ``relaxation`` a function (logits, noise, tau, *, hard) ->
            weights with a gradient, of :mod:`grade_lightning.estimators`, in place of Gumbel-softmax: one-hot in value where
            ``straight_through``.
        measured_by: the reward whose policy gradient a calibrated gain is learned from; None = that of the context.
    """

    Settings = GradeSettings

    def __init__(self, context: Context, settings: GradeSettings | None = None, *, measured_by: Reward | None = None, **values: Any):
        super().__init__(context, settings, **values)
        self.weights = self.settings.relaxation or gumbel_softmax_weights
        self.temperature: Schedule = self.settings.temperature
        if self.settings.relaxation is not None:
            check_feeds(mixtures=_mixes(self.weights), straight_through=self.settings.straight_through)
        chosen = self.settings.reward_gain
        self.gain = float(chosen) if isinstance(chosen, int | float) else 1.0  # what the reward's gradient is multiplied by
        measured = context if measured_by is None else dataclasses.replace(context, reward=measured_by)
        self.calibration = Calibration(measured, self) if chosen == "calibrated" else None

    def schedule_values(self, step: int) -> dict[str, float]:
        return {"tau": self.temperature(step - 1)}

    def _relax(self, step: int, straight_through: bool) -> Relaxation:
        tau = self.temperature(step - 1)

        def relax(logits: Tensor, noise: Tensor, hard: Tensor) -> Tensor:
            if straight_through or self.settings.relaxation is not None:
                return self.weights(logits, noise, tau, hard=hard)
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
        if self.calibration is None:
            self.accumulate_plainly(rollouts, totals, meter, step)
        else:
            self.calibration.accumulate(self, rollouts, totals, meter, step)

    def accumulate_plainly(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """The gradient with the gain that it has now; arguments as those of :meth:`accumulate`."""
        for rollout, weights in zip(rollouts, self.reward_weights(rollouts), strict=True):
            with self.dropout(rollout, step):
                found = self.evaluate(rollout, weights, totals, step)
                self.descend(found, meter)
                self.measure(found, meter, step)

    def reward_weights(self, rollouts: list[Rollout]) -> Sequence[float | Tensor]:
        """What the scores of each micro-batch are multiplied by, the gain and the weights [b] of their prompts."""
        if self.settings.prompt_weights == "equal":
            return [self.gain] * len(rollouts)
        own = torch.cat([read_frozen(self.policy, self.reward, rollout).scored.scores for rollout in rollouts])
        scores, group = gather_rows(own), self.completions_per_prompt
        weights = spread_weights(scores.view(-1, group)).repeat_interleave(group)[my_rows(len(scores))]
        return (self.gain * weights).split([len(rollout) for rollout in rollouts])

    def evaluate(self, rollout: Rollout, weights: float | Tensor, totals: Totals, step: int) -> Evaluated:
        """The objective of one micro-batch at the present weights of the policy, given those of its scores."""
        settings, kl_weight = self.settings, self.context.kl_in_loss * totals.kl_weight(self.context.protocol.kl_reduction)
        relax = self._relax(step, settings.straight_through)
        parallel = relax_in_parallel(self.policy, rollout, relax) if settings.backprop == "adjoint" else None
        relaxed = parallel.relaxed if parallel else relax_sequentially(self.policy, rollout, relax)
        direct = direct_gradient(
            self.policy, self.reward, rollout, relaxed, score_weight=-weights / totals.samples, kl_weight=kl_weight,
            apart=self.apart is not None,
        )  # fmt: skip
        # The direct gradient reaches the policy through the weights; the KL also through the policy's own states.
        through_tokens, of_kl = (relaxed.weights * direct.weights).sum(), kl_weight * (relaxed.hidden * direct.hidden).sum()
        if direct.kl_weights is not None:
            of_kl = of_kl + (relaxed.weights * direct.kl_weights).sum()
        return Evaluated(rollout, parallel, relaxed, direct, through_tokens + of_kl, None if direct.kl_weights is None else of_kl)

    def descend(self, found: Evaluated, meter: Meter, *, share: float = 1.0, beside: Beside | None = None) -> None:
        """Add a micro-batch's gradient, or a share of it.

        Args:
            found: of :meth:`evaluate`.
            meter: takes how the adjoint went.
            share: what the objective is multiplied by.
            beside: gradients of another objective in the states, which go to the weights with the same pass; by the adjoint alone.
        """
        whole, of_kl = (None, None) if beside is None else beside
        if self.apart is None:
            self._backward(found, share * found.objective, meter, whole)
            return
        assert found.of_kl is not None
        with self.apart.whole():
            self._backward(found, share * found.objective, meter, whole, keep=True)
        with self.apart.kl_alone():
            self._backward(found, share * found.of_kl, None, of_kl)

    def _backward(
        self, found: Evaluated, objective: Tensor, meter: Meter | None, beside: Tensor | None, *, keep: bool = False
    ) -> None:  # fmt: skip
        """Add the gradient of an objective, by the adjoint or token by token."""
        settings, rollout = self.settings, found.rollout
        if found.parallel is None:
            assert beside is None
            objective.backward(retain_graph=keep)
            return
        report = adjoint_backward(
            self.policy, rollout, found.parallel, objective, tol=settings.tol, max_hops=settings.max_hops, beside=beside, keep=keep
        )
        if meter is None:
            return
        meter.update(
            len(rollout), hops=report.hops, last_ratio=report.last_ratio, truncated=float(report.truncated),
            limited_by_rounding=float(report.limited_by_rounding),
        )  # fmt: skip
        if not math.isnan(report.residual):
            meter.update(len(rollout), first_ratio=report.first_ratio, residual=report.residual)

    def measure(self, found: Evaluated, meter: Meter, step: int) -> None:
        """Scores, KL, entropy and what the protocol and the settings ask for beside."""
        rollout, relaxed, direct, settings = found.rollout, found.relaxed, found.direct, self.settings
        tokens = max(1, rollout.tokens)
        meter.update(len(rollout), **score_measurements(self.reward, direct.scored))
        _, entropy = sampled_from(relaxed.candidates, rollout.support, rollout.hard)
        meter.update(tokens, kl=direct.kl.sum() / tokens, entropy=torch.where(rollout.mask, entropy, 0.0).sum() / tokens)
        with torch.no_grad():
            if self.context.protocol.kl_alignment == "shifted":
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


def _mixes(weights: Callable[..., Tensor]) -> bool:
    """Whether a relaxation's values are mixtures, told by what it makes of two logits."""
    logits, hard = torch.tensor([0.0, 1.0], dtype=torch.float64), torch.tensor(0)
    return float(weights(logits, torch.zeros_like(logits), 1.0, hard=hard).detach().max()) < 0.999


def shifted_kl(policy: Policy, hidden: Tensor, reference_hidden: Tensor, mask: Tensor) -> Tensor:
    """Sum of KL(policy at t || reference at t + 1) over pairs of tokens: an off-by-one that is above zero even for equal models.  -> []."""
    return kl_gradients(policy, hidden[:, :-1], reference_hidden[:, 1:], mask[:, 1:]).kl.sum()
