"""A policy gradient and a straight-through gradient of the same hard rollouts, combined."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from grade_lightning.distributed import world
from grade_lightning.estimators import Moments, PairedSums, hybrid_weights
from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.gradients import give_gradient, take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.paired import Pair, chunks_of, reduced
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.relaxed import HybridSettings


class HybridGradient(Method):
    """a RLOO + b straight-through of the reward, each half of the batch weighted by what the other half says of the two, and the KL once.

    A straight-through rollout samples hard tokens at temperature 1, so it is on-policy and serves both estimators.  Moments of the
    other half are averaged with those of earlier steps, which have no sample in common with this one: no sample weighs itself.  The KL's
    gradient has its full length in both, so that weights of it would change what is maximised: it is straight-through's, with weight 1.

    Attributes:
        moments, weight_of_moments: running sums, part of a checkpoint.

    Args:
        context, settings, **values: see :class:`Method` and :class:`grade_lightning.settings.relaxed.HybridSettings`.
    """

    Settings = HybridSettings
    moments: Tensor
    weight_of_moments: Tensor

    def __init__(self, context: Context, settings: HybridSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        own: HybridSettings = self.settings
        relaxed = {key: getattr(own, key) for key in ("temperature", "backprop", "tol", "max_hops")}
        self.gain = 1.0 if own.reward_gain == "none" else float(own.reward_gain)  # of the whole reward gradient
        self.biased = GradeGradient(context, diagnostics_every=0, **relaxed)
        self._pair = Pair(context, self.biased, own.completions_per_prompt)
        self.register_buffer("moments", torch.zeros(2, 2, 2, dtype=torch.float64))  # signal, total: running sums
        self.register_buffer("weight_of_moments", torch.zeros((), dtype=torch.float64))

    def schedule_values(self, step: int) -> dict[str, float]:
        return self.biased.schedule_values(step)

    def observe(self, measured: dict[str, float]) -> None:
        self.biased.observe(measured)

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        weights, chunks = self._pair.weights, chunks_of(rollouts)
        before, rank, size = take_gradient(weights), *world()
        halves = [PairedSums([sum(self._pair.sizes)], like=before) for _ in range(2)]
        kl = torch.zeros_like(before)
        for place, chunk in enumerate(chunks):
            found = self._pair.gradients(chunk, totals, meter, step)
            everywhere = rank * len(chunks) + place
            halves[2 * everywhere // (size * len(chunks))].add(found.unbiased, found.biased)
            kl += found.kl
        reward = self.combine(halves, meter)
        if self.apart is not None:
            self.apart.set(reward, kl)
        give_gradient(weights, before + reward + kl)

    def combine(self, halves: list[PairedSums], meter: Meter) -> Tensor:
        """This process' share of the combined gradient, from the sums over its chunks of each half.  -> [D].

        Args:
            halves: of the batch; each is weighed by the moments of the other, over all processes.
            meter: takes the weights.
        """
        everywhere = [reduced(half) for half in halves]
        found = [half.moments()[0] for half in everywhere]
        count, total = sum(half.chunks for half in everywhere), torch.zeros_like(everywhere[0].unbiased)
        for own, other in ((halves[0], found[1]), (halves[1], found[0])):
            moments = self._with_history(other)
            a, b = hybrid_weights(moments, count, min_cosine=self.settings.min_cosine)
            total += self.gain * (a * own.unbiased + b * own.biased)
            cosine = moments.cosine
            meter.update(st_weight=b, pg_weight=a, fallback=float(b == 0.0), **({} if math.isnan(cosine) else {"gradient_cosine": cosine}))
        now = torch.stack([torch.stack([m.signal, m.total]) for m in found]).mean(dim=0)
        momentum = self.settings.momentum
        self.moments = momentum * self.moments + (1 - momentum) * now.to(self.moments)
        self.weight_of_moments = momentum * self.weight_of_moments + (1 - momentum)
        return total

    def _with_history(self, moments: Moments) -> Moments:
        """Moments averaged with those of earlier steps."""
        momentum = self.settings.momentum
        now, share = torch.stack([moments.signal, moments.total]).to(self.moments), 1 - momentum
        signal, total = (momentum * self.moments + share * now) / (momentum * self.weight_of_moments + share)
        return Moments(signal, total)
