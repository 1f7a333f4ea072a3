"""Best-of-n from N >= n samples a prompt, exactly: every choice of n among the N at once, nothing resampled."""

from __future__ import annotations

import itertools
import math

import numpy as np


def weights_of_best(total: int, n: int) -> np.ndarray:
    """Probability that the i-th smallest of N samples is the largest of n of them drawn without replacement: C(i-1, n-1) / C(N, n).

    Args:
        total: N.
        n: at most N.

    Returns:
        [N], adding up to 1.
    """
    return np.asarray([math.comb(i, n - 1) / math.comb(total, n) for i in range(total)])


def _groups(rewards: np.ndarray) -> list[tuple[int, int]]:
    """Runs of equal values in an ascending row, as (first, one past the last)."""
    edges = [0, *(np.flatnonzero(np.diff(rewards)) + 1).tolist(), len(rewards)]
    return list(itertools.pairwise(edges))


def expected_of_best(rewards: np.ndarray, values: np.ndarray, n: int) -> np.ndarray:
    """What a measurement of the sample with the highest reward among n is, in expectation; of equal rewards each is as likely.

    Unbiased for any N >= n; of the reward itself it is the expected maximum.

    Args:
        rewards: [P, N] by prompt.
        values: [P, N] of the measurement.
        n: samples among which the best is chosen.

    Returns:
        [P].
    """
    weights, found = weights_of_best(rewards.shape[1], n), np.empty(len(rewards))
    for row, (reward, value) in enumerate(zip(rewards, values, strict=True)):
        order = np.argsort(reward, kind="stable")
        found[row] = sum(weights[a:b].mean() * value[order[a:b]].sum() for a, b in _groups(reward[order]))
    return found


def kl_bound(n: int) -> float:
    """ln n - (n - 1) / n: KL of best-of-n from what it samples, in nats a completion; with equal rewards an upper bound."""
    return math.log(n) - (n - 1) / n


def kl_of_best(rewards: np.ndarray, n: int) -> np.ndarray:
    """KL of best-of-n from what it samples, in nats a completion, with the measured shares of equal rewards.

    Where rewards are all different it is the bound.  Completions of an equal reward of which a share m lies between the quantiles a and
    a + m are chosen with probability A = (a + m)^n - a^n, each A / m times as often as before (Beirami et al. 2401.01879).

    Args:
        rewards: [P, N] by prompt.
        n: samples among which the best is chosen.

    Returns:
        [P].
    """
    total, found = rewards.shape[1], np.full(len(rewards), kl_bound(n))
    for row, reward in enumerate(np.sort(rewards, axis=1)):
        for a, b in ((a, b) for a, b in _groups(reward) if b - a > 1):
            low, high = a / total, b / total
            chosen = high**n - low**n
            if chosen > 0:  # else it is chosen with a probability beyond all digits
                found[row] += chosen * math.log(chosen / (high - low)) - (_integral(high, n) - _integral(low, n))
    return found


def _integral(u: float, n: int) -> float:
    """Antiderivative, 0 at 0, of n u^(n-1) log(n u^(n-1))."""
    return u**n * math.log(n) + (n - 1) * (u**n * math.log(u) - u**n / n) if u else 0.0
