"""Tests and intervals against other people's numbers, and for calibration."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from scipy.stats import kstest, ttest_ind, ttest_ind_from_stats

from grade_lightning.reporting.published import TABLE1, TABLE2
from grade_lightning.reporting.significance import few_interval, holm, paired_permutation, pooled_t, welch, windowed_variance


def test_permutation_p_by_enumerating_all_signs():
    first, second = [0.9, 0.4, 0.8, 0.7, 0.95, 0.6], [0.5, 0.45, 0.3, 0.6, 0.7, 0.65]
    difference = np.subtract(first, second)
    means = [np.mean(np.multiply(signs, difference)) for signs in product([1, -1], repeat=6)]
    upper = np.mean([value >= difference.mean() - 1e-12 for value in means])
    found = paired_permutation(first, second)
    assert found.p == pytest.approx(2 * upper)
    assert found.difference == pytest.approx(difference.mean())
    assert found.effect == pytest.approx(difference.mean() / difference.std(ddof=1))


def test_permutation_p_is_uniform_without_a_difference():
    generator = np.random.default_rng(0)
    found = []
    for trial in range(300):
        prompts = generator.normal(0.5, 0.3, 60)  # hard and easy prompts, the same for both
        first, second = (prompts + generator.normal(0, 0.1, 60) for _ in range(2))
        found.append(paired_permutation(first, second, resamples=999, seed=trial).p)
    assert kstest(found, "uniform").pvalue > 0.01


def test_pairing_finds_what_an_unpaired_test_cannot():
    generator = np.random.default_rng(1)
    prompts = generator.normal(0.5, 0.3, 80)
    first, second = prompts + 0.05 + generator.normal(0, 0.05, 80), prompts + generator.normal(0, 0.05, 80)
    assert paired_permutation(first, second).p < 0.001
    assert pooled_t(first, second)[1] > 0.05


def test_seed_test_is_calibrated_with_five_seeds():
    generator = np.random.default_rng(2)
    found = [welch(generator.normal(size=5), generator.normal(size=5)).p for _ in range(2000)]
    assert np.mean(np.less(found, 0.05)) == pytest.approx(0.045, abs=0.015)  # Welch's is slightly conservative at n = 5


def test_hedges_g_by_hand():
    # means 3 and 5, sample variances 2.5 both: d = -2 / sqrt(2.5), J = 1 - 3 / (4 x 10 - 9)
    assert welch([1, 2, 3, 4, 5], [3, 4, 5, 6, 7]).effect == pytest.approx(-2 / math.sqrt(2.5) * (1 - 3 / 31))


def test_hedges_g_of_unequal_sizes_against_students_t():
    """Student's t is d / sqrt(1 / n + 1 / m) for the d of g, and the exact correction is a ratio of gamma functions (Hedges 1981)."""
    generator = np.random.default_rng(5)
    for n, m in ((7, 3), (3, 7), (2, 12), (5, 5)):
        first, second = generator.normal(2.0, 3.0, n), generator.normal(0.0, 0.5, m)
        d = ttest_ind(first, second).statistic * math.sqrt(1 / n + 1 / m)
        half = (n + m - 2) / 2
        exact = math.exp(math.lgamma(half) - math.lgamma(half - 0.5)) / math.sqrt(half)
        assert welch(first, second).effect == pytest.approx(exact * d, rel=0.003)


def test_pooled_t_by_summary_statistics():
    generator = np.random.default_rng(3)
    a, b = generator.normal(0.5, 0.2, 50), generator.normal(0.6, 0.3, 50)
    expected = ttest_ind_from_stats(a.mean(), a.std(ddof=1), 50, b.mean(), b.std(ddof=1), 50, equal_var=True)
    assert pooled_t(a, b) == pytest.approx((expected.statistic, expected.pvalue))
    assert pooled_t([0.5, 0.5], [0.5, 0.5]) is None


def test_holm_worked_example():
    # Holm (1979) on p = 0.01, 0.04, 0.03, 0.005: 4 x 0.005, 3 x 0.01, 2 x 0.03, then not below 0.06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.7]) == [1.0, 1.0]
    assert holm([]) == []


def test_windows_as_published_and_all():
    rewards = np.arange(250) % 50 / 50.0
    rewards[200:] = 0.0  # the window that the published values leave out
    one = np.var(np.arange(50) / 50.0)
    assert windowed_variance(rewards, leave_out_last=True) == pytest.approx(one)
    assert windowed_variance(rewards, leave_out_last=False) == pytest.approx(one * 4 / 5)
    assert windowed_variance(rewards[:60], leave_out_last=True) == pytest.approx(one)
    assert windowed_variance(rewards[:49], leave_out_last=False) is None


def test_few_interval_covers_what_it_says():
    generator = np.random.default_rng(4)
    inside = [abs(found.mean) <= found.mean - found.low for found in (few_interval(generator.normal(size=5)) for _ in range(2000))]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.02)


def test_published_values_follow_from_each_other():
    for row in TABLE1.values():
        assert row.best_validation - row.test_mean == pytest.approx(row.gap, abs=0.0011)  # each was rounded
    assert {first for first, _ in TABLE2} | {second for _, second in TABLE2} == set(TABLE1)
    # The t statistics order the methods as a chain of pairwise differences must: GRADE < PPO < REINFORCE < GRADE-STE.
    assert all(t < 0 for t in TABLE2.values())
