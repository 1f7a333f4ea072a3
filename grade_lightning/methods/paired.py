"""RLOO's and a relaxed method's gradient of the same rollouts or of the same noise, the KL kept out of both."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor

from grade_lightning.distributed import parts_of_each, sum_over_processes, sum_tensor, world
from grade_lightning.estimators import PairedSums
from grade_lightning.methods.base import Context, Totals
from grade_lightning.methods.gradients import Apart, take_gradient
from grade_lightning.methods.group import RLOOGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.method import CHUNKS

if TYPE_CHECKING:
    from grade_lightning.methods.grade import GradeGradient


class PairGradients(NamedTuple):
    """Gradients of some rollouts, as their share of the batch's.

    Attributes:
        unbiased: [D] of -E[r] by RLOO.
        biased: [D] of -E[r] by straight-through.
        kl: [D] of beta KL, pathwise.
    """

    unbiased: Tensor
    biased: Tensor
    kl: Tensor


def chunks_of(rollouts: list[Rollout]) -> list[list[Rollout]]:
    """This process' micro-batches by chunk.

    Raises:
        ValueError: they do not make whole chunks.
    """
    count = parts_of_each(CHUNKS, world()[1])
    if len(rollouts) % count:
        raise ValueError(f"parts of a batch are weighed by each other: give a multiple of {count} micro-batches")
    each = len(rollouts) // count
    return [rollouts[start : start + each] for start in range(0, len(rollouts), each)]


class Pair:
    """Both estimators on the same rollouts.

    Args:
        context: of the run.
        biased: straight-through, its gain being 1.
        completions_per_prompt: that stand in a row.
    """

    def __init__(self, context: Context, biased: GradeGradient, completions_per_prompt: int):
        self.biased, self.weights = biased, list(context.policy.trainable().values())
        self.unbiased = RLOOGradient(
            dataclasses.replace(context.for_policy_gradient(), kl_coef=0.0), completions_per_prompt=completions_per_prompt
        )

    @property
    def sizes(self) -> list[int]:
        """Lengths of the tensors of which a gradient consists."""
        return [weight.numel() for weight in self.weights]

    def gradients(
        self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, *, relaxed: list[Rollout] | None = None, alone: bool = False
    ) -> PairGradients:  # fmt: skip
        """Gradients of micro-batches; ``.grad`` is left empty.

        Args:
            rollouts: the micro-batches.
            totals: of the whole effective batch.
            meter: takes what straight-through measures.
            step: policy step.
            relaxed: what straight-through's place is taken on, where that method feeds mixtures; None = the same rollouts.
            alone: no other process has a part in the batch.
        """
        take_gradient(self.weights)
        self.unbiased.alone = alone
        self.unbiased.accumulate(rollouts, totals, Meter(self.biased.policy.device), step)
        unbiased = take_gradient(self.weights)
        return PairGradients(unbiased, *self.straight_through(rollouts if relaxed is None else relaxed, totals, meter, step))

    def straight_through(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> tuple[Tensor, Tensor]:
        """Straight-through gradients of -E[r] and of beta KL, [D] each; arguments: see :meth:`gradients`; ``.grad`` is left empty."""
        outer, self.biased.apart = self.biased.apart, Apart(self.weights)
        try:
            self.biased.accumulate_plainly(rollouts, totals, meter, step)
            return self.biased.apart.reward, self.biased.apart.kl
        finally:
            self.biased.apart = outer
            take_gradient(self.weights)


def reduced(sums: PairedSums) -> PairedSums:
    """Sums over the chunks of all processes."""
    found = PairedSums(sums.sizes, like=sums.unbiased)
    found.unbiased, found.biased, found.within = sum_tensor(sums.unbiased), sum_tensor(sums.biased), sum_tensor(sums.within)
    found.chunks = round(sum_over_processes(sums.chunks))
    return found
