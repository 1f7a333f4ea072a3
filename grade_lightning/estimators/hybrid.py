"""Weights for two estimates of one gradient: one unbiased and noisy, one biased and steady."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Moments:
    """Second moments of two estimators, the unbiased one first, over independent chunks of samples.

    Attributes:
        signal: [2, 2] inner products of different chunks' estimates: unbiased for <mu_i, mu_j>.
        total: [2, 2] inner products within a chunk: signal and covariance of a chunk's noise.
    """

    signal: Float[Tensor, "2 2"]
    total: Float[Tensor, "2 2"]

    @property
    def cosine(self) -> float:
        """Cosine of the two estimators' means; nan while the noise leaves a squared norm at or below 0."""
        square = float(self.signal[0, 0] * self.signal[1, 1])
        return float(self.signal[0, 1]) / square**0.5 if min(float(self.signal[0, 0]), float(self.signal[1, 1])) > 0 else float("nan")


def chunk_moments(unbiased: Float[Tensor, "C D"], biased: Float[Tensor, "C D"]) -> Moments:
    """Moments from the estimates of independent chunks, both estimators on the same chunks.

    Args:
        unbiased: [C, D] estimates of C >= 2 chunks.
        biased: [C, D].
    """
    both = torch.stack([unbiased, biased]).double()  # [2, C, D]
    products = torch.einsum("icd,jed->ijce", both, both)
    chunks = both.shape[1]
    within = products.diagonal(dim1=-2, dim2=-1).mean(dim=-1)
    across = (products.sum(dim=(-2, -1)) - chunks * within) / (chunks * (chunks - 1))
    return Moments((across + across.T) / 2, within)


def hybrid_weights(moments: Moments, chunks: float, *, min_cosine: float) -> tuple[float, float]:
    """(a, b) such that a g + b h comes closest to E g in mean square, g unbiased, h biased, each the mean of ``chunks`` chunks.

    The normal equations (S + (T - S) / chunks) (a, b) = (S_00, S_01) with S the signal and T the total, negative weights set to 0,
    scaled to a + b S_01 / S_00 = 1: as long as g along E g, so that a step does not shrink with the noise.

    The result is (1, 0), the unbiased estimate alone, where the cosine of the means is below ``min_cosine``, or where noise leaves
    a squared norm or the determinant at or below 0.

    This is in the spirit of combining zeroth- and first-order gradients (Suh et al. 2202.00817).
    """
    signal, total = moments.signal.double(), moments.total.double()
    if not moments.cosine >= min_cosine:  # nan too
        return 1.0, 0.0
    matrix = signal + (total - signal) / chunks
    if float(torch.linalg.det(matrix)) <= 0 or float(matrix[0, 0]) <= 0:
        return 1.0, 0.0
    a, b = torch.linalg.solve(matrix, signal[:, 0]).tolist()
    if a < 0:
        a, b = 0.0, float(signal[0, 1] / matrix[1, 1])
    elif b < 0:
        a, b = 1.0, 0.0
    length = a + b * float(signal[0, 1] / signal[0, 0])
    return a / length, b / length
