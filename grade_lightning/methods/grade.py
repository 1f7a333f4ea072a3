"""GRADE and GRADE-STE: ascend the reward by backpropagation through the generated tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from grade_lightning.chain.adjoint import adjoint_backward, relax_in_parallel
from grade_lightning.chain.direct import direct_gradient
from grade_lightning.chain.divergence import kl_gradients
from grade_lightning.chain.sequential import relax_sequentially
from grade_lightning.estimators import AdaptiveTemperature, gumbel_softmax_weights
from grade_lightning.methods.base import Method, Schedule, Shared, Totals
from grade_lightning.methods.choices import check_kl
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout


class GRADE(Method):
    """L = -E[r] + beta KL(policy || reference) (eq. 16), differentiated through relaxed tokens.

    Args:
        shared: see :class:`grade_lightning.methods.base.Shared`.
        temperature: tau as a function of the number of policy steps already made.
        straight_through: hard tokens forward, soft gradient backward (GRADE-STE); otherwise soft tokens are fed forward (GRADE).
        relaxation: (logits, noise, tau, *, hard) -> one-hot weights with a gradient, of :mod:`grade_lightning.estimators`, instead of
            straight-through Gumbel-softmax.
        backprop: ``adjoint`` (parallel, exact to ``tol``) or ``sequential`` (token by token: the oracle).
        tol, max_hops: of the adjoint, see :func:`grade_lightning.chain.adjoint.adjoint_backward`.
        diagnostics_every: measure the soft - hard reward gap every so many steps; 0 = never.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        temperature: Schedule,
        straight_through: bool = True,
        relaxation: Callable[..., Tensor] | None = None,
        backprop: str = "adjoint",
        tol: float = 1e-3,
        max_hops: int | None = None,
        diagnostics_every: int = 10,
    ):
        super().__init__(shared)
        if backprop not in ("adjoint", "sequential"):
            raise ValueError(f"method.backprop={backprop} is unknown: use adjoint or sequential")
        if backprop == "sequential" and max_hops is not None:
            raise ValueError("method.max_hops truncates the adjoint: it needs method.backprop=adjoint")
        check_kl(shared.kl_in, shared.kl_estimator, shared.kl_alignment, relaxed=True)
        if relaxation is not None and not straight_through:
            raise ValueError("method.relaxation replaces the straight-through gradient: it needs method.straight_through=true")
        self.straight_through_weights = relaxation or gumbel_softmax_weights
        self.temperature, self.straight_through, self.diagnostics_every = temperature, straight_through, diagnostics_every
        self.backprop, self.tol, self.max_hops = backprop, tol, max_hops

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

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if isinstance(self.temperature, AdaptiveTemperature):
            checkpoint["temperature"] = self.temperature.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        if isinstance(self.temperature, AdaptiveTemperature):
            self.temperature.load_state_dict(checkpoint["temperature"])

    def relaxation(self, step: int) -> Relaxation | None:
        return None if self.straight_through else self._relax(step, straight_through=False)

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        for rollout in rollouts:
            with self.policy.dropout(self.shared.seed, step, rollout.prompt.rows):
                self.accumulate(rollout, totals, meter, step)
        self.apply_gradients(meter, step)

    def accumulate(self, rollout: Rollout, totals: Totals, meter: Meter, step: int) -> None:
        """Add the gradient of one micro-batch."""
        shared, tokens = self.shared, max(1, rollout.tokens)
        kl_weight = shared.kl_in_loss * totals.kl_weight(shared.kl_reduction)
        relax = self._relax(step, self.straight_through)
        parallel = relax_in_parallel(self.policy, rollout, relax) if self.backprop == "adjoint" else None
        relaxed = parallel.relaxed if parallel else relax_sequentially(self.policy, rollout, relax)
        direct = direct_gradient(self.policy, self.reward, rollout, relaxed, score_weight=-1.0 / totals.samples, kl_weight=kl_weight)
        # The direct gradient reaches the policy through the weights; the KL also through the policy's own states.
        objective = (relaxed.weights * direct.weights).sum() + kl_weight * (relaxed.hidden * direct.hidden).sum()
        if parallel:
            report = adjoint_backward(self.policy, rollout, parallel, objective, tol=self.tol, max_hops=self.max_hops)
            meter.update(
                len(rollout),
                hops=report.hops,
                first_ratio=report.first_ratio,
                last_ratio=report.last_ratio,
                residual=report.residual,
                truncated=float(report.truncated),
            )
        else:
            objective.backward()
        scores = direct.scores
        meter.update(len(rollout), reward=scores.mean(), reward_uncertainty=(scores * (1 - scores)).mean())
        meter.update(tokens, kl=direct.kl.sum() / tokens)
        with torch.no_grad():
            if shared.kl_alignment == "shifted":
                pairs = int(rollout.mask[:, 1:].sum())
                shifted = shifted_kl(self.policy, relaxed.hidden, direct.reference_hidden, rollout.mask)
                meter.update(pairs, kl_shifted=shifted / max(1, pairs))
            soft = self._relax(step, straight_through=False)(relaxed.candidates, rollout.noise, rollout.hard)
            meter.update(tokens, largest_weight=(soft.amax(dim=-1) * rollout.mask).sum() / tokens)
            if self.diagnostics_every and step % self.diagnostics_every == 0:
                meter.update(len(rollout), soft_hard_gap=self._soft_hard_gap(rollout, soft))

    def _soft_hard_gap(self, rollout: Rollout, soft: Tensor) -> Tensor:
        """Mean reward of the soft sample minus that of the hard one, on the same noise."""
        prompt, mask = rollout.prompt, rollout.mask
        soft_score = self.reward.score(prompt.ids, prompt.mask, rollout.soft(soft), mask)
        return (soft_score - self.reward.score(prompt.ids, prompt.mask, rollout.completion_ids, mask)).mean()


def shifted_kl(policy: Policy, hidden: Tensor, reference_hidden: Tensor, mask: Tensor) -> Tensor:
    """Sum of KL(policy at t || reference at t + 1) over pairs of tokens: an off-by-one that is above zero even for equal models.  -> []."""
    return kl_gradients(policy, hidden[:, :-1], reference_hidden[:, 1:], mask[:, 1:]).kl.sum()
