"""Second moments of two estimators over independent chunks of the same samples, from sums alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from grade_lightning.estimators.hybrid import Moments


class PairedSums:
    """Sums over chunks of an unbiased and a biased estimate, from which inner products of *different* chunks follow.

    The estimates themselves are not kept: <sum g, sum h> less the products within chunks is the sum over all pairs of different chunks.

    Args:
        sizes: lengths of the parts (such as tensors) of which an estimate consists; products are kept for each.
        like: a tensor of the device and the type of the estimates; fp32 on the CPU if None.

    Attributes:
        unbiased: [D] sum over chunks.
        biased: [D] the same.
        within: [L, 2, 2] products within chunks, summed over chunks, part by part; the unbiased estimate first.
        chunks: how many.
    """

    unbiased: Tensor
    biased: Tensor
    within: Tensor
    chunks: int

    def __init__(self, sizes: Sequence[int], like: Tensor | None = None):
        self.sizes = list(sizes)
        self.unbiased = torch.zeros(sum(self.sizes)) if like is None else like.new_zeros(sum(self.sizes))
        self.biased = torch.zeros_like(self.unbiased)
        self.within = torch.zeros(len(self.sizes), 2, 2, dtype=torch.float64)
        self.chunks = 0

    def add(self, unbiased: Float[Tensor, " D"], biased: Float[Tensor, " D"]) -> None:
        """One more chunk, both estimates from its samples."""
        self.unbiased = self.unbiased + unbiased
        self.biased = self.biased + biased
        self.within += self._products(unbiased, biased)
        self.chunks += 1

    def _products(self, unbiased: Tensor, biased: Tensor) -> Tensor:
        """[L, 2, 2]."""
        rows = []
        for g, h in zip(unbiased.split(self.sizes), biased.split(self.sizes), strict=True):
            both = torch.stack([g, h]).double()
            rows.append(both @ both.T)
        return torch.stack(rows).cpu()

    def moments(self) -> list[Moments]:
        """Of a chunk, part by part; at least two chunks."""
        across = (self._products(self.unbiased, self.biased) - self.within) / (self.chunks * (self.chunks - 1))
        within = self.within / self.chunks
        return [Moments((a + a.T) / 2, w) for a, w in zip(across, within, strict=True)]

    def merged(self, other: PairedSums) -> PairedSums:
        """Chunks of both."""
        found = PairedSums(self.sizes, like=self.unbiased)
        found.unbiased, found.biased = self.unbiased + other.unbiased, self.biased + other.biased
        found.within, found.chunks = self.within + other.within, self.chunks + other.chunks
        return found
