"""A policy gradient and a straight-through gradient of the same hard rollouts, combined."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from grade_lightning.distributed import world
from grade_lightning.estimators import Moments, chunk_moments, hybrid_weights
from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.gradients import give_gradient, take_gradient
from grade_lightning.methods.group import RLOOGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.methods import HybridSettings

CHUNKS = HybridSettings.chunks  # of an effective batch: two halves of two


class HybridGradient(Method):
    """a RLOO + b straight-through, each half of the batch weighted by what the other half says of the two.

    A straight-through rollout samples hard tokens at temperature 1, so it is on-policy and serves both estimators.  Moments of the
    other half are averaged with those of earlier steps, which have no sample in common with this one: no sample weighs itself.

    Attributes:
        moments, weight_of_moments: running sums, part of a checkpoint.

    Args:
        context, settings, **values: see :class:`Method` and :class:`grade_lightning.settings.methods.HybridSettings`.
    """

    Settings = HybridSettings
    moments: Tensor
    weight_of_moments: Tensor

    def __init__(self, context: Context, settings: HybridSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        if world()[1] > 1:
            raise ValueError("method=hybrid weighs halves of one process' batch: run it in a single process")
        own: HybridSettings = self.settings
        self.unbiased = RLOOGradient(context, completions_per_prompt=own.completions_per_prompt)
        relaxed = {key: getattr(own, key) for key in ("temperature", "backprop", "tol", "max_hops")}
        self.biased = GradeGradient(context, diagnostics_every=0, **relaxed)
        self.register_buffer("moments", torch.zeros(2, 2, 2, dtype=torch.float64))  # signal, total: running sums
        self.register_buffer("weight_of_moments", torch.zeros((), dtype=torch.float64))

    def schedule_values(self, step: int) -> dict[str, float]:
        return self.biased.schedule_values(step)

    def observe(self, measured: dict[str, float]) -> None:
        self.biased.observe(measured)

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        if len(rollouts) % CHUNKS:
            raise ValueError(f"the hybrid weighs {CHUNKS} parts of a batch by each other: give it a multiple of {CHUNKS} micro-batches")
        weights, each = list(self.policy.trainable().values()), len(rollouts) // CHUNKS
        before = take_gradient(weights)
        unbiased, biased, unused = [], [], Meter(self.policy.device)
        for chunk in (rollouts[start : start + each] for start in range(0, len(rollouts), each)):
            self.unbiased.accumulate(chunk, totals, meter, step)
            unbiased.append(take_gradient(weights))
            self.biased.accumulate(chunk, totals, unused, step)
            biased.append(take_gradient(weights))
        meter.drop("advantage_std")  # of each part by itself, which is not that of the batch
        found = unused.compute()
        meter.update(**{name: found[name] for name in ("hops", "first_ratio", "last_ratio", "residual", "largest_weight") if name in found})
        give_gradient(weights, before + self.combine(torch.stack(unbiased), torch.stack(biased), meter))

    def combine(self, unbiased: Tensor, biased: Tensor, meter: Meter) -> Tensor:
        """The combined gradient of the batch from its chunks' shares.  [4, D], [4, D] -> [D]."""
        half = CHUNKS // 2
        found = [chunk_moments(unbiased[rows], biased[rows]) for rows in (slice(0, half), slice(half, CHUNKS))]
        total = torch.zeros_like(unbiased[0])
        for own, other in ((slice(0, half), found[1]), (slice(half, CHUNKS), found[0])):
            moments = self._with_history(other)
            a, b = hybrid_weights(moments, CHUNKS, min_cosine=self.settings.min_cosine)
            total += a * unbiased[own].sum(dim=0) + b * biased[own].sum(dim=0)
            cosine = moments.cosine
            meter.update(st_weight=b, pg_weight=a, fallback=float(b == 0.0), **({} if math.isnan(cosine) else {"gradient_cosine": cosine}))
        now = torch.stack([torch.stack([m.signal, m.total]) for m in found]).mean(dim=0)
        momentum = self.settings.momentum
        self.moments = momentum * self.moments + (1 - momentum) * now
        self.weight_of_moments = momentum * self.weight_of_moments + (1 - momentum)
        return total

    def _with_history(self, moments: Moments) -> Moments:
        """Moments averaged with those of earlier steps."""
        momentum = self.settings.momentum
        now, share = torch.stack([moments.signal, moments.total]), 1 - momentum
        signal, total = (momentum * self.moments + share * now) / (momentum * self.weight_of_moments + share)
        return Moments(signal, total)
