"""The study's numbers on synthetic gradients whose mean and covariance are known."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from grade_lightning.study.moments import GRID, Inner, Units, bootstrap, crossover, crossover_intervals, hybrid_alignment

DIMENSION = 40


def synthetic(mean, *, prompts, draws=2, prompt_sd, noise_sd, seed, tail=None, rollouts=4) -> Units:
    """g_pm = mean + prompt effect + noise, Gaussian or Student t with ``tail`` degrees of freedom, scaled to the same variance."""
    generator = np.random.default_rng(seed)

    def noise(*shape):
        if tail is None:
            return generator.standard_normal(shape)
        return generator.standard_t(tail, shape) / math.sqrt(tail / (tail - 2))

    g = mean + prompt_sd * noise(prompts, 1, DIMENSION) + noise_sd * noise(prompts, draws, DIMENSION)
    return Units(g, (g**2).sum(axis=-1), rollouts, tokens=100.0, seconds=1.0)


MU = np.zeros(DIMENSION)
MU[0] = 2.0
NU = np.zeros(DIMENSION)
NU[:2] = 1.2, 0.9  # cosine with MU 0.8, ||NU||^2 = 2.25


@pytest.mark.parametrize("tail", [None, 3.5])
def test_split_of_the_variance_and_direction(tail):
    units = synthetic(NU, prompts=3000, draws=3, prompt_sd=0.3, noise_sd=0.5, seed=1, tail=tail)
    reference = synthetic(MU, prompts=3000, draws=3, prompt_sd=0.3, noise_sd=1.0, seed=2, tail=tail)
    found = Inner(units, reference).numbers()
    assert found["trace_noise"] == pytest.approx(DIMENSION * 0.25, rel=0.05)
    assert found["trace_prompt"] == pytest.approx(DIMENSION * 0.09, rel=0.1)
    assert found["mu_square"] == pytest.approx(2.25, rel=0.06)
    # One completion a prompt: the noise of four times fewer rollouts, the prompts of as many.
    assert found["nvr_rollout"] == pytest.approx(DIMENSION * (4 * 0.25 + 0.09) / 2.25, rel=0.1)
    grouped = Inner(replace(units, per_prompt=4), reference).numbers()
    assert grouped["nvr_rollout"] == pytest.approx(4 * DIMENSION * 0.34 / 2.25, rel=0.1)
    assert found["cosine"] == pytest.approx(0.8, abs=0.03)
    assert found["rho_64"] == pytest.approx(found["cosine"] / math.sqrt(1 + found["nvr_rollout"] / 64))
    nvr, base_nvr = DIMENSION * (4 * 0.25 + 0.09) / 2.25, DIMENSION * (4 * 1.0 + 0.09) / 4.0
    assert found["gain_16"] == pytest.approx(0.8 * math.sqrt((1 + base_nvr / 16) / (1 + nvr / 16)), rel=0.05)
    assert Inner(reference, reference).numbers()["gain_256"] == pytest.approx(1.0)


def test_squared_norm_is_unbiased_where_the_plain_one_is_not():
    """16 prompts of pure noise: the plain estimate is far above 0, this one averages to 0."""
    plain, unbiased = [], []
    for seed in range(400):
        units = synthetic(np.zeros(DIMENSION), prompts=16, prompt_sd=0.5, noise_sd=1.0, seed=seed)
        unbiased.append(Inner(units, units).numbers()["mu_square"])
        plain.append(float((units.sketches.mean(axis=(0, 1)) ** 2).sum()))
    error = np.std(unbiased) / math.sqrt(len(unbiased))
    assert abs(np.mean(unbiased)) < 4 * error
    assert np.mean(plain) > 10 * error


def test_bootstrap_intervals_cover():
    inside, trials = 0, 120
    for seed in range(trials):
        units = synthetic(NU, prompts=60, prompt_sd=0.3, noise_sd=0.3, seed=seed)
        low, high = bootstrap(Inner(units, units).numbers, 60, resamples=199, seed=seed)["mu_square"]
        inside += low <= 2.25 <= high
    assert inside / trials > 0.87  # nominal 0.95


def test_crossover_of_known_curves():
    """cos 1 with NVR 100 against cos 0.8 with NVR 1 meet where 1 / (1 + 100 / N) = 0.64 / (1 + 1 / N)."""
    unbiased = [1 / math.sqrt(1 + 100 / n) for n in GRID]
    biased = [0.8 / math.sqrt(1 + 1 / n) for n in GRID]
    expected = (64 - 1) / (1 - 0.64)  # 0.64 (N + 100) = N + 1
    assert crossover(biased, unbiased, 1.0, 1.0) == pytest.approx(expected, rel=0.01)
    # Rollouts of the biased one cost 3: the same rho is reached at another cost.
    dearer = crossover(biased, unbiased, 3.0, 1.0)
    assert dearer < 3 * expected
    assert np.interp(math.log(dearer / 3), np.log(GRID), biased) == pytest.approx(
        np.interp(math.log(dearer), np.log(GRID), unbiased), abs=1e-3
    )
    assert crossover(unbiased, unbiased, 1.0, 1.0) == math.inf  # equal is not ahead
    assert crossover([x / 2 for x in unbiased], unbiased, 1.0, 1.0) == 0.0
    assert math.isnan(crossover([math.nan, *biased[1:]], unbiased, 1.0, 1.0))
    assert math.isnan(crossover(biased, unbiased, 1.0, 1e4))  # no cost in common


def test_crossover_interval_holds_the_true_crossover():
    """Cosine 0.8 and both NVRs are known."""
    inside, trials = 0, 40
    own, base = DIMENSION * 0.5**2 / 2.25, DIMENSION * 3.0**2 / 4.0  # NVR of a rollout
    true = (0.64 * base - own) / (1 - 0.64)  # 1 / (1 + base / N) = 0.64 / (1 + own / N)
    assert GRID[0] < true < GRID[-1]
    for trial in range(trials):
        first = synthetic(NU, prompts=60, prompt_sd=0.0, noise_sd=0.5, seed=2 * trial, rollouts=1)
        second = synthetic(MU, prompts=60, prompt_sd=0.0, noise_sd=3.0, seed=2 * trial + 1, rollouts=1)
        inner, reference = Inner(first, second), Inner(second, second)
        low, high = crossover_intervals(inner, reference, {"rollouts": (1.0, 1.0)}, 60)["rollouts"]
        inside += low <= true <= high
    assert inside / trials > 0.85  # nominal 0.95


def test_hybrid_gains_where_neither_parent_is_good():
    unbiased = synthetic(MU, prompts=160, prompt_sd=0.0, noise_sd=0.6, seed=5)
    biased = synthetic(NU, prompts=160, prompt_sd=0.0, noise_sd=0.1, seed=6)
    found = hybrid_alignment(unbiased, biased)
    assert found["hybrid"]["rho"] > max(found["rloo"]["rho"], found["straight_through"]["rho"]) + 0.02
    assert found["gain_over_better_parent"] > 0.02
    wrong = hybrid_alignment(unbiased, synthetic(-MU, prompts=160, prompt_sd=0.0, noise_sd=0.1, seed=7))
    assert wrong["st_weight"] == 0.0
    assert wrong["hybrid"]["rho"] == pytest.approx(wrong["rloo"]["rho"])
