"""Intervals and tests, over the units that were drawn at random: prompts or seeds, never steps of one run."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import bootstrap, permutation_test, t, ttest_ind

LARGE = 3000
_BATCH_ELEMENTS = 4_000_000  # resampled values held at once


class Interval(NamedTuple):
    """A mean and its 95% interval; nan ends where there is a single value."""

    mean: float
    low: float
    high: float

    def __str__(self) -> str:
        if math.isnan(self.low):
            return f"{self.mean:.3f}"
        return f"{self.mean:.3f} [{self.low:.3f}, {self.high:.3f}]"


def mean_interval(values: Sequence[float], *, resamples: int = 9999, seed: int = 0) -> Interval:
    """Mean with a bias-corrected and accelerated bootstrap interval (Efron 1987); a point where all values are equal.

    Above ``LARGE`` values, where the two agree and a jackknife takes gigabytes, the normal interval.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) > LARGE:
        half = 1.959964 * float(array.std(ddof=1)) / math.sqrt(len(array))
        return Interval(mean, mean - half, mean + half)
    if len(array) < 2 or np.ptp(array) == 0:
        return Interval(mean, mean, mean)
    generator = np.random.default_rng(seed)
    found = bootstrap((array,), np.mean, n_resamples=resamples, confidence_level=0.95, method="BCa", rng=generator)
    return Interval(mean, float(found.confidence_interval.low), float(found.confidence_interval.high))


def few_interval(values: Sequence[float]) -> Interval:
    """Mean with Student's t interval.

    A bootstrap over two to five values is far too narrow: its nominal 95% covers about 50% at n = 2 and 70% at n = 3.
    """
    array = np.asarray(values, dtype=float)
    mean = float(array.mean())
    if len(array) < 2:
        return Interval(mean, math.nan, math.nan)
    half = float(t.ppf(0.975, len(array) - 1) * array.std(ddof=1) / np.sqrt(len(array)))
    return Interval(mean, mean - half, mean + half)


class Comparison(NamedTuple):
    """Two samples compared: first - second.

    Attributes:
        difference: of the means; p: two-sided; effect: standardised difference; n: units compared.
    """

    difference: float
    p: float
    effect: float
    n: int


def paired_permutation(first: Sequence[float], second: Sequence[float], *, resamples: int = 9999, seed: int = 0) -> Comparison | None:
    """Sign-flip test of the mean paired difference; the effect is Cohen's d_z.  None for fewer than two pairs.

    p counts the observed assignment, so that it is never 0 and the test is exact at any level.
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if len(a) < 2 or not np.isfinite([a, b]).all():
        return None
    difference = a - b
    spread = float(difference.std(ddof=1))
    if spread == 0 and difference[0] == 0:
        return Comparison(0.0, 1.0, 0.0, len(a))
    found = permutation_test(
        (difference,), _mean, permutation_type="samples",
        n_resamples=resamples if len(a) <= LARGE else min(resamples, 999), vectorized=True, alternative="two-sided",
        batch=max(1, _BATCH_ELEMENTS // len(a)), rng=np.random.default_rng(seed),
    )  # fmt: skip
    effect = float(difference.mean()) / spread if spread else math.inf
    return Comparison(float(difference.mean()), float(found.pvalue), effect, len(a))


def _mean(x: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.mean(x, axis=axis)


def welch(first: Sequence[float], second: Sequence[float]) -> Comparison | None:
    """Welch's t-test of two independent samples; the effect is Hedges' g.  None with fewer than two values in one of them.

    g is the difference in units of the pooled standard deviation, each variance weighted by its degrees of freedom, times the
    correction 1 - 3 / (4 (n + m - 2) - 1) for the bias that few values leave (Hedges 1981, eqs. 5 and 7; Hedges and Olkin 1985, ch. 5).
    """
    a, b = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if min(len(a), len(b)) < 2:
        return None
    difference, freedom = float(a.mean() - b.mean()), len(a) + len(b) - 2
    pooled = math.sqrt(((len(a) - 1) * a.var(ddof=1) + (len(b) - 1) * b.var(ddof=1)) / freedom)
    if pooled == 0:
        return None
    correction = 1 - 3 / (4 * freedom - 1)
    p = float(ttest_ind(a, b, equal_var=False).pvalue)
    return Comparison(difference, p, correction * difference / pooled, len(a) + len(b))


def pooled_t(first: Sequence[float], second: Sequence[float]) -> tuple[float, float] | None:
    """Student's two-sample t and p with pooled variance, as the paper computes them; None where there is nothing to compare."""
    if min(len(first), len(second)) < 2 or np.ptp([*first, *second]) == 0:
        return None
    found = ttest_ind(first, second)
    return float(found.statistic), float(found.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjustment (1979): p values that may be compared with the level of the whole family."""
    order, adjusted, largest = np.argsort(p_values), [0.0] * len(p_values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def windowed_variance(rewards: Sequence[float], *, window: int = 50, leave_out_last: bool) -> float | None:
    """Appendix B.2's stability: mean over consecutive windows of the variance (ddof 0) within each; a window with a gap is left out.

    Args:
        leave_out_last: the published values do: windows start at 0, 50, 100 and 150 of 250 steps.

    Returns:
        None where there is no whole window to count.
    """
    end = len(rewards) - window + (0 if leave_out_last else 1)
    windows = [np.asarray(rewards[start : start + window]) for start in range(0, end, window)]
    found = [float(np.var(values)) for values in windows if np.isfinite(values).all()]
    return float(np.mean(found)) if found else None
