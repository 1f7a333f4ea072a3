"""Straight-through estimators against enumeration and quadrature, and their conditional noise against its distribution."""

import math

import pytest
import torch
from scipy import integrate, stats

from grade_lightning.estimators import (
    decoupled_st_topk,
    decoupled_st_weights,
    gumbel_noise,
    gumbel_rao_topk,
    gumbel_rao_weights,
    gumbel_softmax_topk,
    gumbel_softmax_weights,
    reinmax_topk,
    reinmax_weights,
)
from grade_lightning.estimators.straight_through import conditional_gumbels

LOGITS = torch.tensor([0.3, -0.8, 1.1, 0.0], dtype=torch.float64)
FAMILY = [decoupled_st_topk, reinmax_topk, gumbel_rao_topk]
SILENCE = torch.zeros(4, dtype=torch.float64)


def quadratic(y: torch.Tensor) -> torch.Tensor:
    matrix = torch.tensor(
        [[1.0, 0.4, -0.7, 0.2], [0.4, -0.5, 0.3, 0.9], [-0.7, 0.3, 0.8, -0.1], [0.2, 0.9, -0.1, 0.6]], dtype=torch.float64
    )
    return y @ matrix @ y + y @ torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=torch.float64)


def mean_gradient(weights, f, *, tau: float) -> torch.Tensor:
    """Exact mean over the hard sample, for estimators that need no other noise."""
    total = torch.zeros(4, dtype=torch.float64)
    for position, probability in enumerate(torch.softmax(LOGITS, 0)):
        leaf = LOGITS.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(f(weights(leaf, SILENCE, tau, hard=torch.tensor(position))), leaf)
        total += probability * gradient
    return total


def exact_gradient(f) -> torch.Tensor:
    leaf = LOGITS.clone().requires_grad_()
    expected = sum(p * f(torch.eye(4, dtype=torch.float64)[i]) for i, p in enumerate(torch.softmax(leaf, 0)))
    return torch.autograd.grad(expected, leaf)[0]


@pytest.mark.parametrize("topk", FAMILY)
def test_same_tokens_as_gumbel_softmax_and_one_hot_in_value(topk):
    logits = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = gumbel_noise((3, 5, 8), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, known = topk(logits, 1.5, 8, noise=noise), gumbel_softmax_topk(logits, 1.5, 8, noise=noise)
    assert torch.equal(ours.token_ids, known.token_ids)
    assert torch.equal(ours.indices, known.indices)
    assert torch.equal(ours.weights, known.weights)
    with pytest.raises(ValueError, match="top-k"):
        topk(logits, 1.0, 41)
    with pytest.raises(ValueError, match="positive"):
        topk(logits, 0.0, 8)


def test_plain_straight_through_is_exact_for_linear_rewards():
    values = torch.tensor([0.5, -1.0, 0.25, 2.0], dtype=torch.float64)
    found = mean_gradient(decoupled_st_weights, lambda y: y @ values, tau=1.0)
    assert torch.allclose(found, exact_gradient(lambda y: y @ values), atol=1e-12)
    assert not torch.allclose(mean_gradient(decoupled_st_weights, quadratic, tau=1.0), exact_gradient(quadratic), atol=1e-2)


def test_reinmax_is_exact_for_quadratic_rewards():
    """Second order: the property that gives it its name, at tau = 1."""
    assert torch.allclose(mean_gradient(reinmax_weights, quadratic, tau=1.0), exact_gradient(quadratic), atol=1e-12)
    cubic = mean_gradient(reinmax_weights, lambda y: quadratic(y) * y[0], tau=1.0)
    assert not torch.allclose(cubic, exact_gradient(lambda y: quadratic(y) * y[0]), atol=1e-2)


def test_candidates_outside_the_support_carry_no_gradient():
    logits = torch.tensor([0.3, -torch.inf, 1.1, 0.0], dtype=torch.float64)
    for weights in (decoupled_st_weights, reinmax_weights, gumbel_rao_weights):
        leaf = logits.clone().requires_grad_()
        noise = gumbel_noise((4,), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        (gradient,) = torch.autograd.grad(quadratic(weights(leaf, noise, 1.0)), leaf)
        assert gradient.isfinite().all()
        assert gradient[1] == 0


@pytest.mark.parametrize("offset", [-100.0, -95.0, 100.0])
@pytest.mark.parametrize("weights", [gumbel_softmax_weights, decoupled_st_weights, reinmax_weights, gumbel_rao_weights])
def test_a_common_offset_of_the_logits_changes_nothing(weights, offset):
    """In fp32, where e^100 overflows; the logits are multiples of 2^-10, so that the offset itself rounds nothing."""
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(50, 4, generator=generator) * 1024).round() / 1024
    noise = gumbel_noise((50, 4), generator=generator)
    hard = (logits + noise).argmax(-1)

    def found(values):
        leaf = values.clone().requires_grad_()
        sampled = weights(leaf, noise.to(values.dtype), 0.7, hard=hard)
        cotangent = torch.tensor([1.0, -2.0, 0.5, 3.0], dtype=values.dtype)
        return sampled.detach(), torch.autograd.grad((sampled * cotangent).sum(), leaf)[0]

    (value, gradient), (exact_value, exact) = found(logits + offset), found(logits.double())
    assert torch.equal(value.double(), exact_value)
    assert exact.abs().amax(-1).min() > 1e-3
    assert torch.allclose(gradient.double(), exact, rtol=1e-4, atol=1e-4)


def test_an_unlikely_candidate_is_drawn_like_any_other():
    """A log-probability of -200, whose inverse is no fp32 number: the noise is finite and the given candidate wins."""
    logits = torch.tensor([[0.0, -200.0, -1.0]]).expand(3, 3)
    drawn = conditional_gumbels(logits, torch.eye(3), torch.arange(9.0).view(3, 3), 0)
    assert drawn.isfinite().all()
    assert (logits + drawn).argmax(-1).tolist() == [0, 1, 2]


def test_conditional_gumbels_have_their_distribution():
    """The given candidate always wins, and over D ~ softmax the noise of each candidate is standard Gumbel again."""
    rows = 20_000
    logits = LOGITS.expand(rows, 4)
    noise = gumbel_noise((rows, 4), generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    hard = (logits + noise).argmax(-1)
    onehot = torch.nn.functional.one_hot(hard, 4).double()
    drawn = conditional_gumbels(logits, onehot, noise, 3)
    assert torch.equal((logits + drawn).argmax(-1), hard)
    for candidate in range(4):
        assert stats.kstest(drawn[:, candidate].numpy(), stats.gumbel_r.cdf).pvalue > 0.001
        assert abs(float(torch.corrcoef(torch.stack([drawn[:, candidate], drawn[:, candidate - 1]]))[0, 1])) < 0.03
    again = conditional_gumbels(logits[:7], onehot[:7], noise[:7], 3)
    assert torch.equal(again, drawn[:7])
    assert not torch.equal(conditional_gumbels(logits, onehot, noise, 4), drawn)


def test_gumbel_rao_has_the_mean_of_straight_through_gumbel_softmax_and_less_variance():
    rows, tau = 40_000, 0.7
    noise = gumbel_noise((rows, 4), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found = {}
    for name, weights in (("plain", gumbel_softmax_weights), ("rao", gumbel_rao_weights)):
        leaf = LOGITS.expand(rows, 4).clone().requires_grad_()
        sampled = weights(leaf, noise, tau)
        values = torch.einsum("ni,ij,nj->n", sampled, torch.diag(torch.tensor([2.0, -1.0, 0.5, 3.0], dtype=torch.float64)), sampled)
        (found[name],) = torch.autograd.grad(values.sum(), leaf)
    difference = found["rao"] - found["plain"]
    error = difference.mean(0)[:3]
    statistic = float(error @ torch.linalg.solve(torch.cov(difference[:, :3].T) / rows, error))
    assert statistic < stats.chi2.ppf(0.999, 3)
    assert found["rao"].var(0).sum() < 0.8 * found["plain"].var(0).sum()


def quadrature(f, tau: float) -> tuple[float, float]:
    """Mean and trace of the variance over both logits of straight-through Gumbel-softmax, two categories with logits 0.

    g1 - g2 is logistic.
    """

    def component(x: float) -> float:
        noise = torch.tensor([x, 0.0], dtype=torch.float64)
        leaf = torch.zeros(2, dtype=torch.float64, requires_grad=True)
        (gradient,) = torch.autograd.grad(f(gumbel_softmax_weights(leaf, noise, tau)), leaf)
        return float(gradient[0])

    edges = [(-30.0, -1e-9), (1e-9, 30.0)]
    mean = sum(integrate.quad(lambda x: component(x) * stats.logistic.pdf(x), *edge, limit=60)[0] for edge in edges)
    second = sum(integrate.quad(lambda x: component(x) ** 2 * stats.logistic.pdf(x), *edge, limit=60)[0] for edge in edges)
    return mean, 2 * (second - mean**2)


def test_lost_signal_counterexample():
    """A reward for which straight-through at tau 2 has the wrong sign: mean -0.2146 where the truth is +0.25."""

    def f(y: torch.Tensor) -> torch.Tensor:
        return y[0] + 3 * y[0] * (1 - y[0]) * (2 * y[0] - 1)

    mean, variance = quadrature(f, 2.0)
    assert mean == pytest.approx(-0.2146, abs=5e-5)
    assert 0.125 / variance == pytest.approx(33, rel=0.02)
    assert math.isclose(float(f(torch.tensor([1.0, 0.0]))) - float(f(torch.tensor([0.0, 1.0]))), 1.0)
