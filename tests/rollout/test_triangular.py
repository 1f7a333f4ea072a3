"""The series against torch's triangular solver, on systems whose terms shrink, grow, and shrink only to grow again."""

import pytest
import torch
from torch import Tensor

from grade_lightning.rollout.triangular import backward_through_time

T, WIDTH = 12, 3


def system(size: float, rows: int = 4, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """M [B, T d, T d] strictly lower triangular in time, the objective's gradient c [B, T d], how the outputs depend on theta [B, T d]."""
    generator = torch.Generator().manual_seed(seed)
    matrix = size * torch.randn(rows, T * WIDTH, T * WIDTH, generator=generator, dtype=torch.float64)
    time = torch.arange(T * WIDTH) // WIDTH
    matrix = matrix * (time[:, None] > time[None, :])
    gradient, slope = (torch.randn(rows, T * WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    return matrix, gradient, slope


def solve(matrix: Tensor, gradient: Tensor, slope: Tensor, **settings):
    """-> each row's total derivative with respect to a theta of its own, and the report."""
    theta = torch.zeros(len(matrix), dtype=torch.float64, requires_grad=True)
    leaf = torch.randn(len(matrix), T, WIDTH, dtype=torch.float64, requires_grad=True)
    outputs = ((matrix @ leaf.flatten(1)[..., None]).squeeze(-1) + theta[:, None] * slope).unflatten(1, (T, WIDTH))
    objective = (leaf.flatten(1) * gradient).sum() + 7.0 * theta.sum()
    report = backward_through_time(objective, outputs, leaf, [theta], **settings)
    assert leaf.grad is None
    assert theta.grad is not None
    return theta.grad, report


def exact(matrix: Tensor, gradient: Tensor, slope: Tensor) -> Tensor:
    identity = torch.eye(T * WIDTH, dtype=torch.float64)
    adjoint = torch.linalg.solve_triangular(identity - matrix.mT, gradient[..., None], upper=True).squeeze(-1)
    return 7.0 + (adjoint * slope).sum(dim=1)


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


def test_one_term_less_than_waiting_for_a_small_one():
    """Terms of 0.1 the size of the one before: at 1e-3 the second is 1e-2 and the third is foreseen, so it is left out."""
    matrix = torch.diag(torch.full((T * WIDTH - WIDTH,), 0.1, dtype=torch.float64), -WIDTH)[None]
    gradient = torch.zeros(1, T * WIDTH, dtype=torch.float64)
    gradient[0, -1] = 1.0
    _, report = solve(matrix, gradient, torch.ones_like(gradient), tol=1.5e-3, max_hops=None)
    assert (report.hops, report.residual) == (2, pytest.approx(1e-3, rel=0.02))
    assert report.first_ratio == pytest.approx(0.1)
    assert report.last_ratio == pytest.approx(1e-2, rel=0.02)


def test_a_term_that_vanishes_before_the_series_has_ended():
    """Row 0's second term is tiny and its third is not: foreseeing fails, measuring does not.  Row 1 ends at once."""
    steps = torch.tensor([[0.5, 1e-7, 1e7, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5], [1e-9] * 11], dtype=torch.float64)
    matrix = torch.zeros(2, T * WIDTH, T * WIDTH, dtype=torch.float64)
    for row in range(2):
        for t, factor in enumerate(steps[row]):
            matrix[row, (T - 1 - t) * WIDTH, (T - 2 - t) * WIDTH] = factor
    gradient = torch.zeros(2, T * WIDTH, dtype=torch.float64)
    gradient[:, (T - 1) * WIDTH] = 1.0
    slope = torch.ones_like(gradient)
    found, report = solve(matrix, gradient, slope, tol=1e-3, max_hops=None)
    assert torch.allclose(found, exact(matrix, gradient, slope), rtol=2e-3)
    assert report.hops > 3
    alone, _ = solve(matrix[:1], gradient[:1], slope[:1], tol=1e-3, max_hops=None)
    assert found[0] == pytest.approx(float(alone[0]), rel=1e-12)


@pytest.mark.parametrize("hops", [0, 1, 3, T - 1])
def test_truncation_sums_exactly_so_many_terms(hops):
    matrix, gradient, slope = system(0.5)
    found, report = solve(matrix, gradient, slope, tol=0.0, max_hops=hops)
    term = total = gradient
    for _ in range(hops):
        term = (matrix.mT @ term[..., None]).squeeze(-1)
        total = total + term
    assert torch.allclose(found, 7.0 + (total * slope).sum(dim=1))
    assert report.hops == hops
    assert report.truncated == (hops < T - 1)
    assert (report.residual > 1e-3) == report.truncated


def test_nothing_to_pass_on():
    matrix, gradient, slope = system(0.5)
    found, report = solve(matrix, torch.zeros_like(gradient), slope, tol=1e-3, max_hops=None)
    assert torch.equal(found, torch.full_like(found, 7.0))
    assert (report.hops, report.residual, report.truncated) == (0, 0.0, False)
