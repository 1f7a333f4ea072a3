"""The adjoint of a sequence that feeds its outputs back as inputs: a strictly lower triangular linear system, solved by its series."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

ROUNDING = 4.0  # machine epsilons: what a whole gradient loses to rounding, measured in bf16 as 1.8 to 3.6 % where 4 are 3.1 %
MARGIN = 2.0  # a term that was foreseen too small costs a pass through all weights, one taken too many a pass through the tokens


@dataclass(frozen=True)
class AdjointReport:
    """How the series went.

    Attributes:
        hops: terms summed beyond the direct one, the largest over rows.
        first_ratio: size of the first hop's term relative to the direct one, mean over rows; near or above 1 the chain expands.
        last_ratio: size of the last term relative to the sum, the largest over rows.
        residual: size of the first term left out relative to the sum, measured, the largest over rows.  Where rounding hides it
            (16-bit floats, tiny tolerances) or a cotangent beside the chain does, the last term's size; never less than the rounding of
            the sum itself.
        truncated: ``max_hops`` cut the sum before its tolerance was met.
        tolerance: what the series was held to: ``tol``, or the rounding of the sum where that is larger.
        limited_by_rounding: it was larger: no number of terms brings the sum to within ``tol``.

    ``first_ratio`` and ``residual`` are nan where nothing measured them: no hop was allowed, and a cotangent stood beside the chain.
    """

    hops: int
    first_ratio: float
    last_ratio: float
    residual: float
    truncated: bool
    tolerance: float
    limited_by_rounding: bool


class Chain(NamedTuple):
    """Outputs that are fed back as inputs.

    Attributes:
        leaf: [B, T, d] what is fed.
        states: [B, T, d'] row b at time t a function of ``leaf[b, :t]`` and of the weights.
        feed_back: [B, T, d] cotangent of what is fed -> [B, T, d'] cotangent of the states that it was computed from, time by time.
        goes_on: whether another pass is made, given whether a row here needs it: where processes make their passes together, others may.
    """

    leaf: Float[Tensor, "B T d"]
    states: Float[Tensor, "B T h"]
    feed_back: Callable[[Tensor], Tensor]
    goes_on: Callable[[bool], bool] = bool

    def hop(self, cotangent: Float[Tensor, "B T h"]) -> Float[Tensor, "B T h"]:
        """One more passage of the influence from states to earlier states: M^T c."""
        (fed,) = torch.autograd.grad(self.states, self.leaf, cotangent, retain_graph=True)
        return self.feed_back(fed)


def _row_norms(term: Tensor) -> Tensor:
    flat = term.flatten(1)
    return (flat if flat.dtype == torch.float64 else flat.float()).norm(dim=1)


class _Series:
    """The terms (M^T)^n b, row by row.

    Args:
        chain: M, strictly lower triangular in time, block diagonal over rows.
        direct: [B, T, d'] b.
        tol: see :func:`backward_through_time`.
        most: number of terms that a row may have.
        foresee: end a row before a term that is expected below the tolerance, instead of after one that was.
    """

    def __init__(self, chain: Chain, direct: Tensor, *, tol: float, most: int, foresee: bool):
        self.chain, self.tol, self.most, self.foresee = chain, tol, most, foresee
        self.term, self.total = direct, direct.clone()
        self.norm = _row_norms(direct)
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
        """The next term, for some rows; for none where the pass was made for other processes."""
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
        while self.chain.goes_on(bool((rows := self.unfinished).any())):
            self.take(self.chain.hop(self.term), rows)
            added = added + self.term
        return added

    def residual(self, term: Tensor) -> Tensor:
        """Relative size of the next term.  -> [B]."""
        return torch.where(_row_norms(self.total) > 0, self._relative(_row_norms(term)), 0.0)

    def report(self, residual: Tensor, noise: float, limited: bool, exact: int, *, measured: bool = True) -> AdjointReport:
        """What came of it, given the [B] sizes of what was left out, the rounding of the sum, whether that set the tolerance, the number of
        terms of the exact sum, and whether the first term and what was left out were measured."""
        left = torch.where(_row_norms(self.total) > 0, residual.clamp_min(noise), residual)
        first, rest = (self.first_ratio, _largest(left)) if measured else (math.nan, math.nan)
        return AdjointReport(
            int(self.taken.max()), first, _largest(self.ratio), rest, truncated=bool((self.active & (self.taken < exact)).any()),
            tolerance=self.tol, limited_by_rounding=limited,
        )  # fmt: skip


def _largest(values: Tensor) -> float:
    """The largest finite value; 0 without any."""
    finite = values[values.isfinite()]
    return float(finite.max()) if len(finite) else 0.0


def backward_through_time(
    chain: Chain, direct: Float[Tensor, "B T h"], inputs: Sequence[Tensor], *, tol: float, max_hops: int | None,
    beside: Float[Tensor, "B T h"] | None = None, keep: bool = False,
) -> AdjointReport:  # fmt: skip
    """Add to ``.grad`` of ``inputs`` the total derivative of an objective, the direct derivative of which is given.

    A row's sum ends when its next term is expected below half of ``tol`` times the sum, by how the last two shrank.  The backward pass of
    the weights then measures that term; where it is larger than expected it is added, and the row goes on.  Where rounding hides
    such a difference of sums, a row ends after a term that was below ``tol``.  A ``tol`` below the rounding of the sum is raised to
    it, and the report says so: further terms would be noise.  With a cotangent ``beside`` the pass of the weights measures nothing of the
    chain, and a row ends after a term that was below ``tol`` too.

    Args:
        chain: the states as functions of earlier ones and of ``inputs``.
        direct: [B, T, d'] derivative of the objective with respect to the states, what is fed held fixed.
        inputs: the weights.
        tol: largest size of the first term left out relative to the sum; rows do not influence each other.
        max_hops: most terms beyond the direct one: how often an influence may pass from a token to a later one.  None = as many as it
            takes, T - 1 at most, where the sum is exact.  Fewer on purpose is truncated backpropagation through time: an estimator
            with less variance and some bias.
        beside: [B, T, d'] cotangent of the states that has no part in the chain, of another objective: its gradient in ``inputs`` comes
            with the same pass.  None = none.
        keep: the chain's graph serves another objective afterwards.
    """
    leaf, states = chain.leaf, chain.states
    exact = leaf.shape[1] - 1
    most = exact if max_hops is None else min(max_hops, exact)
    noise = ROUNDING * torch.finfo(leaf.dtype).eps
    limited, tol = tol < noise, max(tol, noise)
    rounding = 4 * noise  # of a difference of sums, relative to them, after a pass through a network
    foresee = tol > rounding and beside is None
    series = _Series(chain, direct, tol=tol, most=most, foresee=foresee)
    first, added = direct, series.sum()
    residual, rows = series.ratio, torch.ones_like(series.active)
    if beside is not None:
        torch.autograd.backward(states, added + beside, inputs=[*inputs], retain_graph=keep)
        return series.report(torch.where(series.taken < exact, residual, 0.0), noise, limited, exact, measured=max_hops != 0)
    leaf.grad = None
    while True:
        torch.autograd.backward(states, added, inputs=[*inputs, leaf], retain_graph=foresee or keep)
        fed, leaf.grad = leaf.grad, None
        assert fed is not None
        term = chain.feed_back(fed) - (added - first)  # M^T (t_a + ... + t_b) = t_a+1 + ... + t_b+1
        measured = series.residual(term)
        if not bool(series.taken.any()):
            series.first_ratio = float(measured.mean())  # no hop was made: this is the first
        if not foresee:
            residual = torch.where(measured > rounding, measured, torch.minimum(measured, residual))
            series.active = series.active & (residual > tol)
            break
        residual = torch.where(rows, measured, residual)
        series.active = torch.where(rows, residual > tol, series.active)
        rows = rows & series.unfinished
        if not chain.goes_on(bool(rows.any())):
            break
        series.take(term, rows)
        first, added = series.term, series.sum()
    return series.report(residual, noise, limited, exact)
