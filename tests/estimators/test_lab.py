"""The laboratory: its truth, its counterexamples, and estimators against it."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import chi2

from experiments.estimator_lab import one_step
from experiments.estimator_lab.gradients import draw_noise, policy_gradients, relaxations, relaxed_gradients, rloo_gradients, sample_ids
from experiments.estimator_lab.quality import quality
from experiments.estimator_lab.sequence import Toy, exact, log_probability, make_toy, rewards_of


def test_counterexamples_to_the_digits():
    """The values that refute the paper's theorem."""
    linear = one_step.policy_gradient(one_step.LINEAR)
    assert linear.variance == pytest.approx(0.1250, abs=1e-12)
    for tau, variance in ((0.05, 1.5408), (0.1, 0.7077), (0.25, 0.2130), (0.5, 0.0631), (1.0, 0.0111)):
        assert one_step.relaxed(one_step.LINEAR, tau, straight_through=False).variance == pytest.approx(variance, abs=5e-5)
    assert one_step.crossover(one_step.LINEAR) == pytest.approx(0.3483, abs=5e-5)
    wrong = one_step.relaxed(one_step.MISLEADING, 2.0, straight_through=True)
    assert wrong.mean == pytest.approx(-0.2146, abs=5e-5)
    assert one_step.truth(one_step.MISLEADING) == 0.25
    assert round(one_step.policy_gradient(one_step.MISLEADING).variance / wrong.variance) == 33


def test_quadrature_equals_the_package_sampled():
    """The integrals against the relaxations themselves on a toy of one step and two symbols."""
    toy = Toy(torch.zeros(1, 2, dtype=torch.float64), torch.zeros(1, 2, 2, dtype=torch.float64), lambda tokens: tokens[..., 0, 0])
    relax = relaxations(0.5)["Gumbel-softmax"]
    found = relaxed_gradients(toy, draw_noise(toy, 200_000, 1), relax)[:, :2]
    expected = one_step.relaxed(one_step.LINEAR, 0.5, straight_through=False)
    assert float(found[:, 0].mean()) == pytest.approx(expected.mean, abs=4 * math.sqrt(expected.variance / 2 / 200_000))
    assert float(found.var(dim=0).sum()) == pytest.approx(expected.variance, rel=0.02)


@pytest.mark.parametrize("kind", ["linear", "smooth", "steep", "adversarial"])
def test_exact_gradient_by_finite_differences(kind):
    toy = make_toy(kind, steps=3, size=3, seed=1)
    p, rewards, gradient = exact(toy)
    assert float(p.sum()) == pytest.approx(1.0)
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(len(gradient), generator=generator, dtype=torch.float64)

    def value(step):
        flat = (toy.weights() + step * direction).expand(len(p), -1)
        return float((log_probability(toy, flat, toy.sequences()).exp() * rewards).sum())

    assert (value(1e-5) - value(-1e-5)) / 2e-5 == pytest.approx(float(gradient @ direction), rel=1e-7)


def test_adversarial_equals_linear_on_every_hard_sequence():
    toys = [make_toy(kind, steps=3, size=4, seed=2) for kind in ("linear", "adversarial")]
    torch.testing.assert_close(*(rewards_of(toy, toy.sequences()) for toy in toys))


def chi_square(found: torch.Tensor, truth: torch.Tensor) -> float:
    """p of the hypothesis that the mean of ``found`` [N, D] is ``truth``, all coordinates together (Hotelling)."""
    difference = found.mean(dim=0) - truth
    covariance = torch.cov(found.T) / len(found)
    # Coordinates that cannot vary (an unused lag) have no say.
    values, vectors = torch.linalg.eigh(covariance)
    kept = values > 1e-12 * values.max()
    statistic = ((vectors.T @ difference)[kept].square() / values[kept]).sum()
    return float(chi2.sf(float(statistic), int(kept.sum())))


def estimates(toy, name, rollouts=100_000):
    ids = sample_ids(toy, draw_noise(toy, rollouts, 3))
    if name == "RLOO":
        return rloo_gradients(toy, ids).view(-1, 4, len(toy.weights())).mean(dim=1)
    return policy_gradients(toy, ids, rewards_of(toy, ids))


@pytest.mark.parametrize("name", ["policy gradient", "RLOO"])
def test_unbiased_estimators_are_and_the_test_would_notice(name):
    toy = make_toy("smooth", steps=3, size=3, seed=4)
    _, _, truth = exact(toy)
    assert chi_square(estimates(toy, name), truth) > 1e-3
    scaled = Toy(toy.bias, toy.lag, lambda tokens: 1.05 * toy.reward(tokens))
    assert chi_square(estimates(scaled, name), truth) < 1e-3


@pytest.mark.parametrize("name", ["decoupled ST", "ReinMax"])
def test_sampled_biased_estimators_have_the_listed_expectation(name):
    """Sampled through noise against summed over all sequences with their probabilities."""
    toy = make_toy("smooth", steps=3, size=3, seed=4)
    p, _, _ = exact(toy)
    ids, relax = toy.sequences(), relaxations(1.5)[name]
    listed = relaxed_gradients(toy, torch.zeros(len(ids), *toy.shape, dtype=torch.float64), relax, ids=ids)
    sampled = relaxed_gradients(toy, draw_noise(toy, 50_000, 5), relax)
    assert chi_square(sampled, (p[:, None] * listed).sum(dim=0)) > 1e-3


def test_gumbel_rao_keeps_the_mean_and_lowers_the_variance():
    toy = make_toy("smooth", steps=2, size=3, seed=6)
    noise = draw_noise(toy, 40_000, 7)
    st, rao = (relaxed_gradients(toy, noise, relaxations(0.5)[name]) for name in ("straight-through", "Gumbel-Rao, K=16"))
    assert chi_square(st - rao, torch.zeros(st.shape[1], dtype=torch.float64)) > 1e-3
    assert float(rao.var(dim=0).sum()) < 0.8 * float(st.var(dim=0).sum())


def test_quality_of_known_gradients():
    """Gaussian gradients of known mean and covariance, and heavy-tailed ones."""
    generator = torch.Generator().manual_seed(0)
    truth = torch.tensor([3.0, 4.0], dtype=torch.float64)
    mean = torch.tensor([4.0, 3.0], dtype=torch.float64)
    found = quality(mean + 2.0 * torch.randn(200_000, 2, generator=generator, dtype=torch.float64), truth)
    assert found.cosine == pytest.approx(24 / 25, abs=2e-3)
    assert found.nvr == pytest.approx(8 / 25, rel=0.02)
    assert found.rho_16 == pytest.approx(24 / 25 / math.sqrt(1 + 8 / 25 / 16), abs=2e-3)
    heavy = torch.distributions.StudentT(torch.tensor(5.0, dtype=torch.float64))
    torch.manual_seed(0)
    found = quality(mean + heavy.sample((200_000, 2)), truth)
    assert found.nvr == pytest.approx(2 * 5 / 3 / 25, rel=0.05)  # variance of t_5 is 5/3
