"""A policy gradient and a straight-through gradient of the same hard rollouts, combined."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from grade_lightning.estimators import Moments, chunk_moments, hybrid_weights
from grade_lightning.methods.base import Method, Schedule, Shared, Totals
from grade_lightning.methods.distributed import world
from grade_lightning.methods.grade import GRADE
from grade_lightning.methods.gradients import take_gradients
from grade_lightning.methods.group import RLOO
from grade_lightning.methods.meter import Meter
from grade_lightning.rollout.types import Rollout

CHUNKS = 4  # of an effective batch: two halves of two


class Hybrid(Method):
    """a RLOO + b straight-through, each half of the batch weighted by what the other half says of the two.

    A straight-through rollout samples hard tokens at temperature 1, so it is on-policy and serves both estimators.  Moments of the
    other half are averaged with those of earlier steps, which have no sample in common with this one: no sample weighs itself.

    Attributes:
        moments, weight_of_moments: running sums, part of a checkpoint.

    Args:
        shared: see :class:`Shared`.
        temperature, backprop, tol, max_hops: of the straight-through parent, see :class:`GRADE`.
        completions_per_prompt: of the RLOO parent.
        min_cosine: safeguard of :func:`hybrid_weights`.
        momentum: of the running moments, in policy steps; 0 = this step's other half alone.
    """

    moments: Tensor
    weight_of_moments: Tensor

    def __init__(
        self,
        shared: Shared,
        *,
        temperature: Schedule,
        completions_per_prompt: int = 4,
        backprop: str = "adjoint",
        tol: float = 1e-3,
        max_hops: int | None = None,
        min_cosine: float = 0.1,
        momentum: float = 0.98,
    ):
        super().__init__(shared, completions_per_prompt=completions_per_prompt)
        if not -1.0 <= min_cosine <= 1.0:
            raise ValueError(f"method.min_cosine is a cosine, got {min_cosine}")
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"method.momentum must lie in [0, 1), got {momentum}")
        if world()[1] > 1:
            raise ValueError("method=hybrid weighs halves of one process' batch: run it in a single process")
        self.min_cosine, self.momentum = min_cosine, momentum
        # In a tuple: the parents share this method's policy and are no modules of it.
        self._parents = (
            RLOO(shared, completions_per_prompt=completions_per_prompt),
            GRADE(shared, temperature=temperature, backprop=backprop, tol=tol, max_hops=max_hops, diagnostics_every=0),
        )
        self.register_buffer("moments", torch.zeros(2, 2, 2, dtype=torch.float64))  # signal, total: running sums
        self.register_buffer("weight_of_moments", torch.zeros((), dtype=torch.float64))

    def schedule_values(self, step: int) -> dict[str, float]:
        return self._parents[1].schedule_values(step)

    def observe(self, measured: dict[str, float]) -> None:
        self._parents[1].observe(measured)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._parents[1].on_save_checkpoint(checkpoint)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self._parents[1].on_load_checkpoint(checkpoint)

    def micro_batch_size(self, rows: int) -> int:
        """At most the accumulation's, and no micro-batch lies in two chunks."""
        chunk = rows // CHUNKS
        if rows % (CHUNKS * self.completions_per_prompt):
            raise ValueError(
                f"method=hybrid halves its batch twice between prompts: effective_batch_size={rows} must be a multiple of "
                f"{CHUNKS * self.completions_per_prompt} (4 x method.completions_per_prompt)"
            )
        most = min(super().micro_batch_size(rows), chunk)
        return next(size for size in range(most, 0, -1) if chunk % size == 0)

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        policy_gradient, straight_through = self._parents
        policy_gradient.reward = straight_through.reward = self.reward
        self.optimizers().zero_grad()  # type: ignore[union-attr]
        credited = policy_gradient.credit(rollouts, totals, meter)
        each = len(rollouts) // CHUNKS
        unbiased, biased, unused = [], [], Meter(self.device)
        for chunk in range(CHUNKS):
            for sampled, advantages in credited[chunk * each : (chunk + 1) * each]:
                with self.policy.dropout(self.shared.seed, step, sampled.rollout.prompt.rows):
                    policy_gradient.accumulate(sampled, advantages, totals, meter)
            unbiased.append(self._take_gradient())
            for rollout in rollouts[chunk * each : (chunk + 1) * each]:
                with self.policy.dropout(self.shared.seed, step, rollout.prompt.rows):
                    straight_through.accumulate(rollout, totals, unused, step)
            biased.append(self._take_gradient())
        found = unused.compute()
        meter.update(**{name: found[name] for name in ("hops", "first_ratio", "last_ratio", "residual", "largest_weight") if name in found})
        self._give_gradient(self.combine(torch.stack(unbiased), torch.stack(biased), meter))
        self.apply_gradients(meter, step)

    def combine(self, unbiased: Tensor, biased: Tensor, meter: Meter) -> Tensor:
        """The combined gradient of the batch from its chunks' shares.  [4, D], [4, D] -> [D]."""
        half = CHUNKS // 2
        found = [chunk_moments(unbiased[rows], biased[rows]) for rows in (slice(0, half), slice(half, CHUNKS))]
        total = torch.zeros_like(unbiased[0])
        for own, other in ((slice(0, half), found[1]), (slice(half, CHUNKS), found[0])):
            moments = self._with_history(other)
            a, b = hybrid_weights(moments, CHUNKS, min_cosine=self.min_cosine)
            total += a * unbiased[own].sum(dim=0) + b * biased[own].sum(dim=0)
            cosine = moments.cosine
            meter.update(st_weight=b, pg_weight=a, fallback=float(b == 0.0), **({} if math.isnan(cosine) else {"gradient_cosine": cosine}))
        now = torch.stack([torch.stack([m.signal, m.total]) for m in found]).mean(dim=0)
        self.moments = self.momentum * self.moments + (1 - self.momentum) * now
        self.weight_of_moments = self.momentum * self.weight_of_moments + (1 - self.momentum)
        return total

    def _with_history(self, moments: Moments) -> Moments:
        """Moments averaged with those of earlier steps."""
        now, share = torch.stack([moments.signal, moments.total]), 1 - self.momentum
        signal, total = (self.momentum * self.moments + share * now) / (self.momentum * self.weight_of_moments + share)
        return Moments(signal, total)

    def _take_gradient(self) -> Tensor:
        return torch.cat([gradient.flatten() for gradient in take_gradients(self.policy.trainable().values())])

    def _give_gradient(self, flat: Tensor) -> None:
        for weight, part in zip(
            self.policy.trainable().values(), flat.split([w.numel() for w in self.policy.trainable().values()]), strict=True
        ):
            weight.grad = part.view_as(weight).clone()
