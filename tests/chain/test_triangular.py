"""The series against torch's triangular solver, on systems whose terms shrink, grow, and shrink only to grow again."""

import math

import pytest
import torch
from torch import Tensor

from grade_lightning.chain.triangular import Chain, backward_through_time

T, WIDTH = 12, 3


def system(size: float, rows: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """M [B, T d, T d] strictly lower triangular in time, the direct derivative b [B, T d], how the states depend on theta [B, T d]."""
    generator = torch.Generator().manual_seed(seed)
    matrix = size * torch.randn(rows, T * WIDTH, T * WIDTH, generator=generator, dtype=torch.float64)
    time = torch.arange(T * WIDTH) // WIDTH
    matrix = matrix * (time[:, None] > time[None, :])
    gradient, slope = (torch.randn(rows, T * WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return matrix, gradient, slope


def solve(matrix: Tensor, gradient: Tensor, slope: Tensor, **settings):
    """-> each row's total derivative with respect to a theta of its own, and the report.

    The states s = M s + theta slope, fed back as e = s Q.
    """
    theta = torch.zeros(len(matrix), dtype=torch.float64, requires_grad=True)
    leaf = torch.randn(len(matrix), T, WIDTH, dtype=torch.float64, requires_grad=True)
    turn = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=torch.Generator().manual_seed(5), dtype=torch.float64)).Q
    back = (leaf @ turn.T).flatten(1)
    states = ((matrix @ back[..., None]).squeeze(-1) + theta[:, None] * slope).unflatten(1, (T, WIDTH))
    direct = gradient.unflatten(1, (T, WIDTH))
    report = backward_through_time(Chain(leaf, states, lambda fed: fed @ turn.T), direct, [theta], **settings)
    assert leaf.grad is None
    assert theta.grad is not None
    return theta.grad, report


def exact(matrix: Tensor, gradient: Tensor, slope: Tensor) -> Tensor:
    identity = torch.eye(T * WIDTH, dtype=torch.float64)
    adjoint = torch.linalg.solve_triangular(identity - matrix.mT, gradient[..., None], upper=True).squeeze(-1)
    return (adjoint * slope).sum(dim=1)


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0, 10.0])
@pytest.mark.parametrize("tol", [1e-2, 1e-6, 1e-12])
def test_tolerance_holds_whatever_the_size_of_the_chain(size, tol):
    parts = system(size)
    found, report = solve(*parts, tol=tol, max_hops=None)
    expected = exact(*parts)
    # What is left out is tol of the adjoint's norm; its product with the slope is at most the product of the norms.
    adjoint = torch.linalg.solve(torch.eye(T * WIDTH, dtype=torch.float64) - parts[0].mT, parts[1])
    bound = 3 * tol * adjoint.norm(dim=1) * parts[2].norm(dim=1) + 1e-10 * expected.abs()
    assert bool(((found - expected).abs() <= bound).all())
    assert not report.truncated
    assert report.residual <= max(tol, 1e-14)
    assert report.hops <= T - 1


@pytest.mark.parametrize("size", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("hops", [None, 0, 2])
def test_another_objective_comes_with_the_same_pass_and_through_no_chain(size, hops):
    matrix, gradient, slope = system(size)
    other = torch.randn(slope.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    alone, expected = solve(matrix, gradient, slope, tol=1e-6, max_hops=hops)
    found, report = solve(matrix, gradient, slope, tol=1e-6, max_hops=hops, beside=other.unflatten(1, (T, WIDTH)))
    adjoint = torch.linalg.solve(torch.eye(T * WIDTH, dtype=torch.float64) - matrix.mT, gradient)
    bound = 3e-6 * adjoint.norm(dim=1) * slope.norm(dim=1)
    assert bool(((found - alone - (other * slope).sum(dim=1)).abs() <= bound).all())
    assert report.truncated == expected.truncated
    assert math.isnan(report.residual) == (hops == 0)
    if hops is None:
        assert report.residual <= 1e-6
        assert 0 <= report.hops - expected.hops <= 1  # nothing is foreseen: it waits for a small term


def test_one_term_less_than_waiting_for_a_small_one():
    """Terms of 0.1 the size of the one before: the second is 1e-2, and the third is foreseen to be 1e-3, less than half of tol."""
    matrix = torch.diag(torch.full((T * WIDTH - WIDTH,), 0.1, dtype=torch.float64), -WIDTH)[None]
    gradient = torch.zeros(1, T * WIDTH, dtype=torch.float64)
    gradient[0, -1] = 1.0
    _, report = solve(matrix, gradient, torch.ones_like(gradient), tol=2.5e-3, max_hops=None)
    assert (report.hops, report.residual) == (2, pytest.approx(1e-3, rel=0.02))
    assert report.first_ratio == pytest.approx(0.1)
    assert report.last_ratio == pytest.approx(1e-2, rel=0.02)
    _, careful = solve(matrix, gradient, torch.ones_like(gradient), tol=1.5e-3, max_hops=None)
    assert careful.hops == 3  # 1e-3 is too close to 1.5e-3 to rely on


def chain(*factors: float) -> Tensor:
    """[1, T d, T d]: each time depends on the one before alone, by these factors from the last time backwards."""
    matrix = torch.zeros(1, T * WIDTH, T * WIDTH, dtype=torch.float64)
    for t, factor in enumerate(factors):
        matrix[0, (T - 1 - t) * WIDTH, (T - 2 - t) * WIDTH] = factor
    return matrix


def ends(rows: int) -> tuple[Tensor, Tensor]:
    gradient = torch.zeros(rows, T * WIDTH, dtype=torch.float64)
    gradient[:, (T - 1) * WIDTH] = 1.0
    return gradient, torch.ones_like(gradient)


# The second row's fourth term vanishes again: measuring once is not enough.
VANISHING = [chain(0.5, 1e-7, 1e7, *[0.5] * 8), chain(0.5, 1e-7, 1e7, 1e-7, 1e7, *[0.9] * 6)]


@pytest.mark.parametrize("other", [chain(*[1e-9] * 11), chain(*[1.0] * 11), chain(*[0.9] * 9, 0.0, 0.0)])
@pytest.mark.parametrize("matrix", VANISHING)
def test_a_term_that_vanishes_before_the_series_has_ended(matrix, other):
    """Foreseeing fails, measuring does not; whatever the row beside it needs, the row gets what it gets alone."""
    alone, report = solve(matrix, *ends(1), tol=1e-3, max_hops=None)
    assert torch.allclose(alone, exact(matrix, *ends(1)), rtol=2e-3)
    assert report.hops > 3
    assert report.residual <= 1e-3
    both = torch.cat([matrix, other])
    together, _ = solve(both, *ends(2), tol=1e-3, max_hops=None)
    assert torch.allclose(together, exact(both, *ends(2)), rtol=2e-3)
    assert together[0] == pytest.approx(float(alone[0]), rel=1e-12)


@pytest.mark.parametrize("hops", [2, 4])
def test_a_cut_is_each_rows_own(hops):
    both = torch.cat([VANISHING[0], chain(*[1.0] * 11)])
    together, report = solve(both, *ends(2), tol=1e-3, max_hops=hops)
    alone, _ = solve(VANISHING[0], *ends(1), tol=1e-3, max_hops=hops)
    assert together[0] == pytest.approx(float(alone[0]), rel=1e-12)
    assert report.truncated


def test_where_rounding_hides_the_next_term():
    """In 16 bits a row ends after a term below the tolerance, not before one that is expected to be: terms of 1/16, 1/256."""
    for dtype, hops in ((torch.float64, 1), (torch.bfloat16, 2)):
        leaf = torch.randn(1, T, WIDTH, dtype=dtype, requires_grad=True)
        theta = torch.ones(1, dtype=dtype, requires_grad=True)
        states = torch.cat([torch.zeros(1, 1, WIDTH, dtype=dtype), 0.0625 * leaf[:, :-1]], dim=1) * theta
        direct = torch.zeros(1, T, WIDTH, dtype=dtype)
        direct[:, -1] = 1.0
        report = backward_through_time(Chain(leaf, states, lambda fed: fed), direct, [theta], tol=0.05, max_hops=None)
        assert report.hops == hops
        assert not report.truncated
        assert not report.limited_by_rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tolerance_below_rounding_is_raised_to_it(dtype):
    """Terms of half the size of the one before, whose sum is exact in 16 bits too: no more of them for a smaller tolerance."""
    reports = []
    for tol in (0.0, 1e-12, 1e-8):
        leaf = torch.randn(1, 40, WIDTH, dtype=dtype, requires_grad=True)
        theta = torch.ones(1, dtype=dtype, requires_grad=True)
        states = torch.cat([torch.zeros(1, 1, WIDTH, dtype=dtype), 0.5 * leaf[:, :-1]], dim=1) * theta
        direct = torch.zeros(1, 40, WIDTH, dtype=dtype)
        direct[:, -1] = 1.0
        reports.append(backward_through_time(Chain(leaf, states, lambda fed: fed), direct, [theta], tol=tol, max_hops=None))
    assert reports[0] == reports[1] == reports[2]
    eps = torch.finfo(dtype).eps
    assert eps < reports[0].tolerance < 16 * eps
    assert reports[0].limited_by_rounding
    assert reports[0].residual >= reports[0].tolerance
    assert 2.0 ** -reports[0].hops > eps / 4
    assert not reports[0].truncated


@pytest.mark.parametrize("hops", [0, 1, 3, T - 1])
def test_truncation_sums_exactly_so_many_terms(hops):
    matrix, gradient, slope = system(0.5)
    found, report = solve(matrix, gradient, slope, tol=0.0, max_hops=hops)
    term = total = gradient
    for _ in range(hops):
        term = (matrix.mT @ term[..., None]).squeeze(-1)
        total = total + term
    assert torch.allclose(found, (total * slope).sum(dim=1))
    assert report.hops == hops
    assert report.truncated == (hops < T - 1)
    assert (report.residual > 1e-3) == report.truncated


@pytest.mark.parametrize("tol", [1e-3, 1e-15])
def test_without_a_hop_the_first_is_measured(tol):
    """Whether or not rounding could hide it: the second tolerance is below it."""
    for size in (1e-2, 1e-8):
        matrix, gradient, slope = system(size)
        _, report = solve(matrix, gradient, slope, tol=tol, max_hops=0)
        first = (matrix.mT @ gradient[..., None]).squeeze(-1).norm(dim=1) / gradient.norm(dim=1)
        assert report.hops == 0
        assert report.first_ratio == pytest.approx(float(first.mean()), rel=1e-5)
        assert report.truncated == (float(first.max()) > tol)


def test_nothing_to_pass_on():
    matrix, gradient, slope = system(0.5)
    found, report = solve(matrix, torch.zeros_like(gradient), slope, tol=1e-3, max_hops=None)
    assert torch.equal(found, torch.zeros_like(found))
    assert (report.hops, report.residual, report.truncated) == (0, 0.0, False)
