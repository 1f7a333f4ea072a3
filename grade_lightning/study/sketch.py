"""A fixed random sketch that keeps inner products of gradients in a few thousand numbers."""

from __future__ import annotations

import torch
from torch import Tensor


class CountSketch:
    """Each coordinate is added, with a random sign, to one of ``size`` buckets (Charikar et al. 2002).

    Inner products are kept without bias, with a standard deviation of about ||x|| ||y|| / sqrt(size).  Vectors that are no longer than
    ``size`` are kept as they are.

    Args:
        dimension: of the vectors. size: of their sketches. seed: of buckets and signs.
    """

    def __init__(self, dimension: int, size: int, *, seed: int = 0):
        self.exact = dimension <= size
        self.size = dimension if self.exact else size
        generator = torch.Generator().manual_seed(seed)
        self._bucket = torch.randint(self.size, (dimension,), generator=generator)
        self._sign = torch.randint(2, (dimension,), generator=generator).float() * 2 - 1

    def __call__(self, vector: Tensor) -> Tensor:
        """[D] -> [size], on the CPU in fp32."""
        vector = vector.detach().float().cpu()
        return vector if self.exact else torch.zeros(self.size).index_add_(0, self._bucket, self._sign * vector)
