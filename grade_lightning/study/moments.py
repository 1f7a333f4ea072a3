"""Bias, variance and direction of estimators from the inner products of their units."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from grade_lightning.estimators import Moments, chunk_moments, hybrid_weights

GRID = tuple(round(2 ** (i / 4)) for i in range(8, 49))  # rollouts from 4 to 4096


@dataclass(frozen=True)
class Units:
    """P prompts x M independent units of one estimator, the same prompts for all estimators.

    Attributes:
        sketches: [P, M, m]; squares: [P, M] exact squared norms of the whole gradients.
        rollouts: completions in a unit; tokens, seconds: of a unit.
        per_prompt: completions of the same prompt in a batch of the method: N rollouts are N / per_prompt prompts.
    """

    sketches: np.ndarray
    squares: np.ndarray
    rollouts: int
    tokens: float
    seconds: float
    per_prompt: int = 1


def gram(first: Units, second: Units) -> tuple[np.ndarray, np.ndarray]:
    """[P, P] inner products of per-prompt means, and [P] of different draws of the same prompt (unbiased for that prompt)."""
    a, b = first.sketches.astype(np.float64), second.sketches.astype(np.float64)
    draws = a.shape[1]
    mean_a, mean_b = a.mean(axis=1), b.mean(axis=1)
    same_draw = np.einsum("pmd,pmd->p", a, b) / draws
    within = (draws * np.einsum("pd,pd->p", mean_a, mean_b) - same_draw) / (draws - 1)
    return mean_a @ mean_b.T, within


def _between(products: np.ndarray, weight: np.ndarray) -> float:
    """Weighted mean of the inner products of different prompts: no noise is common to the two sides."""
    pairs = np.outer(weight, weight)
    np.fill_diagonal(pairs, 0.0)
    total = pairs.sum()
    return float((pairs * products).sum() / total) if total > 0 else math.nan  # all of the weight on one prompt says nothing


class Inner:
    """Everything that is estimated from one estimator and the unbiased reference, for any weights of the prompts.

    All second moments are U-statistics over different prompts (and, within a prompt, over different draws), so noise adds no bias:
    E||g||^2 = noise + prompt + ||mu||^2, E<g, g'> = prompt + ||mu||^2 within a prompt, ||mu||^2 between prompts.
    """

    def __init__(self, units: Units, reference: Units):
        self.units, self._base = units, reference
        self._own, self._within = gram(units, units)
        self._cross, _ = gram(units, reference)
        self._reference, self._base_within = gram(reference, reference)
        self._square, self._base_square = units.squares.mean(axis=1), reference.squares.mean(axis=1)

    def numbers(self, weight: np.ndarray | None = None) -> dict[str, float]:
        """Of one unit (``trace_*``) and, with N rollouts, ``rho_N``; nan where noise leaves a squared norm at or below 0.

        ``length_ratio`` is ||mu|| over the reference's, ``projection`` c = cosine x length ratio, the length along the reference's mean.
        ``gain_N`` is rho_N over the reference's own: what the same reference gets wrong in both partly cancels.
        """
        weight = np.ones(len(self._square)) if weight is None else weight
        square, within = (float(np.average(x, weights=weight)) for x in (self._square, self._within))
        mu, target, inner = (_between(products, weight) for products in (self._own, self._reference, self._cross))
        trace = _trace(self.units, square, within, mu)
        found = {
            "mean_square": square, "trace_noise": square - within, "trace_prompt": within - mu, "trace": square - mu,
            "mu_square": mu, "nvr_rollout": _ratio(trace, mu),
            "cosine": inner / math.sqrt(mu * target) if min(mu, target) > 0 else math.nan,
            "length_ratio": math.sqrt(mu / target) if min(mu, target) > 0 else math.nan, "projection": _ratio(inner, target),
        }  # fmt: skip
        base_square, base_within = (float(np.average(x, weights=weight)) for x in (self._base_square, self._base_within))
        base_trace = _trace(self._base, base_square, base_within, target)
        for count in (16, 64, 256, 1024):
            found[f"rho_{count}"] = self._rho(inner, trace, mu, target, count)
            found[f"gain_{count}"] = _ratio(found[f"rho_{count}"], self._rho(target, base_trace, target, target, count))
        return found

    def _rho(self, inner: float, trace: float, mu: float, target: float, rollouts: float) -> float:
        """cos / sqrt(1 + NVR / N), written without dividing by an estimate of ||mu||^2 that may be tiny."""
        length = mu + trace / rollouts
        return inner / math.sqrt(length * target) if min(length, target) > 0 else math.nan

    def curve(self, weight: np.ndarray | None = None) -> list[float]:
        """rho_N over ``GRID``."""
        weight = np.ones(len(self._square)) if weight is None else weight
        mu, target, inner = (_between(products, weight) for products in (self._own, self._reference, self._cross))
        square, within = (float(np.average(x, weights=weight)) for x in (self._square, self._within))
        trace = _trace(self.units, square, within, mu)
        return [self._rho(inner, trace, mu, target, count) for count in GRID]


def _trace(units: Units, square: float, within: float, mu: float) -> float:
    """N times the variance of the mean of N rollouts: noise averages over rollouts, the choice of prompts over prompts."""
    return units.rollouts * (square - within) + units.per_prompt * (within - mu)


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else math.nan


def _resampled(prompts: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Weights of the prompts, drawn with replacement."""
    generator = np.random.default_rng(seed)
    for _ in range(resamples):
        yield generator.multinomial(prompts, np.full(prompts, 1 / prompts)).astype(float)


def bootstrap(
    numbers: Callable[[np.ndarray], dict[str, float]], prompts: int, *, resamples: int = 999, seed: int = 0
) -> dict[str, list[float]]:
    """95% percentile intervals over prompts drawn with replacement; a prompt drawn twice is one prompt of double weight."""
    rows = [numbers(weight) for weight in _resampled(prompts, resamples, seed)]
    found = {}
    for name in rows[0]:
        values = np.asarray([row[name] for row in rows])
        # What cannot be computed (a squared norm below 0) is as far from known as can be.
        open_end = not np.isfinite(values).mean() > 0.975
        finite = values[np.isfinite(values)]
        found[name] = [math.nan, math.nan] if open_end or not len(finite) else np.quantile(finite, [0.025, 0.975]).tolist()
    return found


def crossover(first: Sequence[float], second: Sequence[float], first_cost: float, second_cost: float) -> float:
    """The cost from which on the second rho curve over ``GRID`` is the higher one, by interpolation in log cost.

    Args:
        first_cost, second_cost: of one rollout (rollouts, tokens or seconds).

    Returns:
        The last such cost; 0 where the second is the higher one at every cost that both curves have, infinity where it is not at the
        dearest; nan where a curve has a gap or the curves have no cost in common.
    """
    low, high = max(first_cost, second_cost) * GRID[0], min(first_cost, second_cost) * GRID[-1]
    if low >= high:
        return math.nan
    costs = np.geomspace(low, high, 400)
    behind = np.interp(np.log(costs / second_cost), np.log(GRID), second) - np.interp(np.log(costs / first_cost), np.log(GRID), first)
    if not np.isfinite(behind).all():
        return math.nan
    ahead = np.flatnonzero(behind <= 0)
    if not len(ahead):
        return 0.0
    return float(costs[ahead[-1]]) if ahead[-1] + 1 < len(costs) else math.inf


def crossover_intervals(
    first: Inner, second: Inner, costs: dict[str, tuple[float, float]], prompts: int, *, resamples: int = 199, seed: int = 0
) -> dict[str, list[float]]:
    """95% percentile intervals of :func:`crossover` over prompts, for each kind of cost of a rollout of the first and the second.

    Both ends are nan where more than 2.5% of the resamples have no curve.
    """
    found: dict[str, list[float]] = {name: [] for name in costs}
    for weight in _resampled(prompts, resamples, seed):
        curves = first.curve(weight), second.curve(weight)
        for name, (first_cost, second_cost) in costs.items():
            found[name].append(crossover(*curves, first_cost, second_cost))
    return {name: _percentiles(values) for name, values in found.items()}


def _percentiles(values: list[float]) -> list[float]:
    known = [value for value in values if not math.isnan(value)]
    if len(known) <= 0.975 * len(values):
        return [math.nan, math.nan]
    # Observed values, not between two of them: one may be infinite.
    return [float(np.quantile(known, 0.025, method="lower")), float(np.quantile(known, 0.975, method="higher"))]


def hybrid_alignment(unbiased: Units, biased: Units, *, chunks: int = 4, min_cosine: float = 0.1, seed: int = 0) -> dict[str, Any]:
    """rho of the hybrid's update from ``chunks`` units, beside its parents' from the very same units.

    Each unit is a chunk; moments come from all batches that share no prompt with the one they weigh.  The target is the mean of the
    unbiased units of prompts that stand in no part of the batch.  No intervals: batches share their target and their moments, so
    resampling them would say far too little.
    """
    prompts, draws = unbiased.sketches.shape[:2]
    batches = prompts // chunks
    if batches < 3:
        raise ValueError(f"{prompts} prompts are too few to weigh batches of {chunks} by others: use at least {3 * chunks}")
    order = np.random.default_rng(seed).permutation(prompts)[: batches * chunks].reshape(batches, chunks)
    g, h = (units.sketches.astype(np.float64) for units in (unbiased, biased))
    parts = [chunk_moments(torch.from_numpy(g[rows, m]), torch.from_numpy(h[rows, m])) for rows in order for m in range(draws)]
    rows_found: dict[str, list[tuple[float, float]]] = {"rloo": [], "straight_through": [], "hybrid": []}
    weights = []
    for batch, rows in enumerate(order):
        others = [parts[i] for i in range(len(parts)) if i // draws != batch]
        known = Moments(*(sum(getattr(m, name) for m in others) / len(others) for name in ("signal", "total")))  # type: ignore[arg-type]
        a, b = hybrid_weights(known, chunks, min_cosine=min_cosine)
        weights.append((a, b))
        target = g[np.setdiff1d(np.arange(prompts), rows)].mean(axis=(0, 1))
        for m in range(draws):
            first, second = g[rows, m].mean(axis=0), h[rows, m].mean(axis=0)
            for name, update in (("rloo", first), ("straight_through", second), ("hybrid", a * first + b * second)):
                rows_found[name].append((float(update @ target), float(update @ update)))
    square = _between(gram(unbiased, unbiased)[0], np.ones(prompts))
    scale = math.sqrt(square) if square > 0 else math.nan
    values = {name: np.asarray(rows) for name, rows in rows_found.items()}

    def rho(rows: np.ndarray) -> float:
        return float(rows[:, 0].mean() / (math.sqrt(rows[:, 1].mean()) * scale))

    return {
        "rollouts": chunks * unbiased.rollouts, "batches": batches * draws, "pg_weight": float(np.mean([a for a, _ in weights])),
        "st_weight": float(np.mean([b for _, b in weights])),
        **{name: {"rho": rho(rows)} for name, rows in values.items()},
        "gain_over_better_parent": rho(values["hybrid"]) - max(rho(values["rloo"]), rho(values["straight_through"])),
    }  # fmt: skip
