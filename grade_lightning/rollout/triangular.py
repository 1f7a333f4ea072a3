"""The adjoint of a sequence that feeds its outputs back as inputs: a strictly lower triangular linear system, solved by its series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class AdjointReport:
    """How the series went.

    Attributes:
        hops: terms summed beyond g, the largest over rows.
        first_ratio: ||J^T g|| / ||g||, mean over rows; near or above 1 the chain expands.
        last_ratio: ||last term|| / ||sum||, the largest over rows.
        residual: ||g + J^T mu - mu|| / ||mu||, the first term left out, measured (the last term where the series had to go on), the
            largest over rows.
        truncated: ``max_hops`` cut the sum before its tolerance was met.
    """

    hops: int
    first_ratio: float
    last_ratio: float
    residual: float
    truncated: bool


def _row_norms(term: Tensor) -> Tensor:
    flat = term.flatten(1)
    return (flat if flat.dtype == torch.float64 else flat.float()).norm(dim=1)


class _Series:
    """The terms (J^T)^n g, row by row.

    Args:
        outputs, leaf: [B, T, d]; J = d outputs / d leaf, strictly lower triangular in time, block diagonal over rows.
        first: [B, T, d] g.
        tol: see :func:`backward_through_time`.
    """

    def __init__(self, outputs: Tensor, leaf: Tensor, first: Tensor, tol: float):
        self.outputs, self.leaf, self.tol = outputs, leaf, tol
        self.term, self.total = first, first.clone()
        self.norm = _row_norms(first)
        self.tiny = torch.finfo(self.norm.dtype).tiny
        self.ratio = torch.full_like(self.norm, torch.inf)
        self.active = self.norm > 0
        self.hops, self.first_ratio = 0, 0.0

    def _relative(self, norm: Tensor) -> Tensor:
        return norm / _row_norms(self.total).clamp_min(self.tiny)

    def _take(self, term: Tensor, rows: Tensor) -> None:
        """The next term, for some rows; afterwards those are active whose term after it is expected above the tolerance."""
        self.term = torch.where(rows[:, None, None], term, 0.0)
        self.total = self.total + self.term
        self.hops += 1
        norm = _row_norms(self.term)
        shrunk = norm / self.norm.clamp_min(self.tiny)
        if self.hops == 1:
            self.first_ratio = float(shrunk.mean())
        self.ratio = torch.where(rows, self._relative(norm), self.ratio)
        self.norm = torch.where(rows, norm, self.norm)
        self.active = rows & (self.ratio * shrunk.clamp(max=1.0) > self.tol)

    def sum(self, most: int) -> Tensor:
        """Add terms until no row is active.  -> the sum of the present term and those added."""
        added = self.term.clone()
        while self.hops < most and bool(self.active.any()):
            (term,) = torch.autograd.grad(self.outputs, self.leaf, self.term, retain_graph=True)
            self._take(term, self.active)
            added = added + self.term
        return added

    def check(self, term: Tensor, most: int) -> tuple[Tensor, bool]:
        """Compare the measured next term with the tolerance.  -> its relative size [B], and whether it was taken."""
        # A difference of sums is not known beyond their rounding.
        floor = 16 * torch.finfo(term.dtype).eps
        residual = torch.where(_row_norms(self.total) > 0, self._relative(_row_norms(term)), 0.0)
        self.active = residual > max(self.tol, floor)
        needed = self.hops < most and bool(self.active.any())
        if needed:
            self._take(term, self.active)
        return residual, needed


def backward_through_time(
    objective: Tensor, outputs: Tensor, leaf: Tensor, inputs: Sequence[Tensor], *, tol: float, max_hops: int | None
) -> AdjointReport:
    """Add to ``.grad`` of ``inputs`` the total derivative of ``objective``, ``outputs`` being fed back as ``leaf``.

    A row's sum ends when its next term is expected below ``tol`` times the sum, by how the last two shrank.  The backward pass of
    the weights then measures that term; where it is larger than expected it is added, and the row goes on.

    Args:
        objective: [], a function of ``leaf`` and ``inputs``.
        outputs: [B, T, d], row b at time t a function of ``leaf[b, :t]`` and ``inputs``.
        leaf: [B, T, d], of the values of ``outputs``.
        tol: largest relative size of the first term left out; rows do not influence each other.
        max_hops: most terms; None = as many as it takes, T - 1 at most, where the sum is exact.  Fewer on purpose is truncated
            backpropagation through time: an estimator with less variance and some bias.
    """
    exact = leaf.shape[1] - 1
    most = exact if max_hops is None else min(max_hops, exact)
    (first,) = torch.autograd.grad(objective, leaf, retain_graph=True)
    series = _Series(outputs, leaf, first, tol)
    added = series.sum(most)
    # Gives leaf g + J^T (g + ... + t_n) = g + ... + t_n+1.
    leaf.grad = None
    roots, cotangents = [objective, outputs], [torch.ones_like(objective), added]
    torch.autograd.backward(roots, cotangents, inputs=[*inputs, leaf], retain_graph=series.hops < most)
    assert leaf.grad is not None
    residual, needed = series.check(leaf.grad - added, most)
    leaf.grad = None
    if needed:
        torch.autograd.backward([outputs], [series.sum(most)], inputs=list(inputs))
        residual = torch.where(residual > tol, series.ratio, residual)
    last = series.ratio[series.ratio.isfinite()]
    return AdjointReport(
        series.hops,
        series.first_ratio,
        float(last.max()) if len(last) else 0.0,
        float(residual.max()),
        truncated=bool(series.active.any()) and series.hops < exact,
    )
