"""The adjoint of a sequence that feeds its outputs back as inputs: a strictly lower triangular linear system, solved by its series."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

MARGIN = 2.0  # a term that was foreseen too small costs a pass through all weights, one taken too many a pass through the tokens


@dataclass(frozen=True)
class AdjointReport:
    """How the series went.

    Attributes:
        hops: terms summed beyond g, the largest over rows.
        first_ratio: ||J^T g|| / ||g||, mean over rows; near or above 1 the chain expands.
        last_ratio: ||last term|| / ||sum||, the largest over rows.
        residual: ||g + J^T mu - mu|| / ||mu||, the first term left out, measured, the largest over rows.  Where rounding hides it
            (16-bit floats, tiny tolerances), no more than the last term's size.
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
        tol, most: see :func:`backward_through_time`.
        foresee: end a row before a term that is expected below the tolerance, instead of after one that was.
    """

    def __init__(self, outputs: Tensor, leaf: Tensor, first: Tensor, *, tol: float, most: int, foresee: bool):
        self.outputs, self.leaf, self.tol, self.most, self.foresee = outputs, leaf, tol, most, foresee
        self.term, self.total = first, first.clone()
        self.norm = _row_norms(first)
        self.tiny = torch.finfo(self.norm.dtype).tiny
        self.ratio = torch.full_like(self.norm, torch.inf)
        self.active = self.norm > 0
        self.taken = torch.zeros_like(self.active, dtype=torch.long)
        self.first_ratio = 0.0

    def _relative(self, norm: Tensor) -> Tensor:
        return norm / _row_norms(self.total).clamp_min(self.tiny)

    @property
    def unfinished(self) -> Tensor:
        """[B] rows that need a term and may have one."""
        return self.active & (self.taken < self.most)

    def take(self, term: Tensor, rows: Tensor) -> None:
        """The next term, for some rows (at least one)."""
        self.term = torch.where(rows[:, None, None], term, 0.0)
        self.total = self.total + self.term
        norm = _row_norms(self.term)
        shrunk = norm / self.norm.clamp_min(self.tiny)
        if not bool(self.taken.any()):
            self.first_ratio = float(shrunk.mean())
        self.taken = self.taken + rows
        self.ratio = torch.where(rows, self._relative(norm), self.ratio)
        self.norm = torch.where(rows, norm, self.norm)
        expected = self.ratio * (MARGIN * shrunk.clamp(max=1.0) if self.foresee else 1.0)
        self.active = torch.where(rows, expected > self.tol, self.active)

    def sum(self) -> Tensor:
        """Add terms until no row needs one.  -> the sum of the present term and those added."""
        added = self.term.clone()
        while bool((rows := self.unfinished).any()):
            (term,) = torch.autograd.grad(self.outputs, self.leaf, self.term, retain_graph=True)
            self.take(term, rows)
            added = added + self.term
        return added

    def residual(self, term: Tensor) -> Tensor:
        """Relative size of the next term.  -> [B]."""
        return torch.where(_row_norms(self.total) > 0, self._relative(_row_norms(term)), 0.0)


def backward_through_time(
    objective: Tensor, outputs: Tensor, leaf: Tensor, inputs: Sequence[Tensor], *, tol: float, max_hops: int | None
) -> AdjointReport:
    """Add to ``.grad`` of ``inputs`` the total derivative of ``objective``, ``outputs`` being fed back as ``leaf``.

    A row's sum ends when its next term is expected below half of ``tol`` times the sum, by how the last two shrank.  The backward pass of
    the weights then measures that term; where it is larger than expected it is added, and the row goes on.  Where rounding hides
    such a difference of sums, a row ends after a term that was below ``tol``.

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
    rounding = 16 * torch.finfo(leaf.dtype).eps  # of a difference of sums, relative to them, after a pass through a network
    foresee = tol > rounding
    series = _Series(outputs, leaf, first, tol=tol, most=most, foresee=foresee)
    added, known = series.sum(), torch.zeros_like(first)
    roots, cotangents = [objective, outputs], [torch.ones_like(objective), added]
    residual, rows = series.ratio, torch.ones_like(series.active)
    leaf.grad = None
    while True:
        torch.autograd.backward(roots, cotangents, inputs=[*inputs, leaf], retain_graph=foresee)
        passed, leaf.grad = leaf.grad, None
        assert passed is not None
        if not foresee:
            measured = series.residual(passed - added)
            residual = torch.where(measured > rounding, measured, torch.minimum(measured, residual))
            break
        # The first time g + J^T (g + ... + t_n) = g + ... + t_n+1; then J^T (t_a + ... + t_b) = t_a+1 + ... + t_b+1.
        term = passed - (added - known)
        residual = torch.where(rows, series.residual(term), residual)
        series.active = torch.where(rows, residual > tol, series.active)
        rows = rows & series.unfinished
        if not bool(rows.any()):
            break
        series.take(term, rows)
        known, added = series.term, series.sum()
        roots, cotangents = [outputs], [added]
    last = series.ratio[series.ratio.isfinite()]
    left = residual[residual.isfinite()]
    return AdjointReport(
        int(series.taken.max()),
        series.first_ratio,
        float(last.max()) if len(last) else 0.0,
        float(left.max()) if len(left) else 0.0,
        truncated=bool((series.active & (series.taken < exact)).any()),
    )
