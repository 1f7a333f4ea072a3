"""Methods against one of them: at equal KL, and in the steps they need to a reward at a KL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.equal_kl import method_weight_seed
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.significance import Interval, few_interval
from grade_lightning.reporting.table import Table

# What is compared at equal KL: of the test's results, how it is transformed, title, format.
QUANTITIES = (
    ("reward_mean", "logit", "Reward", ".3f"), ("judge_mean", "logit", "Judge", ".3f"), ("distinct_2", "none", "Distinct-2", ".3f"),
    ("perplexity", "log", "Perplexity, as a factor", ".2f"),
)  # fmt: skip
TRANSFORMS: dict[str, Callable[[Any], Any]] = {"logit": lambda x: np.log(x / (1 - x)), "none": lambda x: x, "log": np.log}
LEAST = 4  # runs of a method for a curve of its own
INTERVAL_SEEDS = 3  # with two the jackknife has two values, whose agreement is an accident of which seeds stand together
GRID = 9  # KLs, evenly in their logarithm, over which differences are averaged
TARGETS = ((0.8, 0.3), (0.85, 0.4), (0.9, 0.5), (0.9, 0.7), (0.95, 1.0), (0.97, 1.25))  # validation reward, at most this KL

# By method and seed: the runs' KL and what is compared.
Curves = dict[str, dict[int, list[tuple[float, dict[str, float]]]]]


def curves(records: Sequence[Record], step: int | None = None) -> Curves:
    """Where the runs of each method and seed ended (test), or were after a step (validation); the smallest KL first."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for record in records:
        method, _, seed = method_weight_seed(record)
        rows = [record.results["test"]] if step is None else [row for row in record.results["validation"] if row["step"] == step]
        for row in rows:
            values = {key: float(row[key]) for key, _, _, _ in (QUANTITIES if step is None else QUANTITIES[:1])}
            found[method][seed].append((float(row["kl_mean"]), values))
    return {method: {seed: sorted(runs, key=lambda run: run[0]) for seed, runs in seeds.items()} for method, seeds in found.items()}


def line(seeds: Mapping[int, Sequence[tuple[float, Mapping[str, float]]]], key: str, transform: str) -> np.ndarray:
    """Least squares of a transformed quantity over ln KL, all runs of a method together.  -> [2] height at 1 nat and slope."""
    points = [(kl, values[key]) for runs in seeds.values() for kl, values in runs]
    kls, values = (np.asarray(column) for column in zip(*points, strict=True))
    return np.linalg.lstsq(np.stack([np.ones_like(kls), np.log(kls)], axis=1), TRANSFORMS[transform](values), rcond=None)[0]


def heights(fit: np.ndarray, transform: str, kls: np.ndarray) -> np.ndarray:
    """A line's values at KLs; of logits as probabilities."""
    value = fit[0] + fit[1] * np.log(kls)
    return 1 / (1 + np.exp(-value)) if transform == "logit" else value


def jackknife(whole: float, without: Sequence[float]) -> Interval:
    """Student's 95% interval around an estimate, from those without each seed in turn."""
    count = len(without)
    found = few_interval([count * whole - (count - 1) * one for one in without])
    half = (found.high - found.low) / 2
    return Interval(whole, whole - half, whole + half)


def band(seeds: Mapping[int, Sequence[tuple[float, Mapping[str, float]]]], kls: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A method's reward at KLs by its line, and the ends of its interval; of fewer than three seeds all three are the line."""
    if len(seeds) < INTERVAL_SEEDS:
        alone = heights(line(seeds, "reward_mean", "logit"), "logit", kls)
        return alone, alone, alone
    fits = [line({s: runs for s, runs in seeds.items() if s != left}, "reward_mean", "logit") for left in (None, *seeds)]
    whole, *without = [heights(fit, "none", kls) for fit in fits]
    sides = [jackknife(middle, column) for middle, *column in zip(whole, *without, strict=True)]
    low, middle, high = (1 / (1 + np.exp(-np.asarray([getattr(side, name) for side in sides]))) for name in ("low", "mean", "high"))
    return low, middle, high


class Difference(NamedTuple):
    """Of two methods at equal KL.

    Attributes:
        seeds: that both have.
        low, high: KLs that runs of both enclose; none where low is above high.
        values: of each quantity the mean difference, and its interval where there are three seeds; empty where there are no such KLs.
    """

    seeds: int
    low: float
    high: float
    values: dict[str, tuple[float, Interval | None]]


def difference(found: Curves, method: str, reference: str) -> Difference | None:
    """What a method has beyond another: lines through all runs of each, their mean difference over the KLs that both enclose.

    Student's 95% intervals of the jackknife over seeds: lines are fitted anew without each seed in turn.

    Returns:
        None where a method has fewer than :data:`LEAST` runs of common seeds, or several weights of one seed alone.
    """
    seeds = sorted(found.get(method, {}).keys() & found.get(reference, {}).keys())
    pair = [{seed: found[name][seed] for seed in seeds} for name in (method, reference)] if seeds else []
    if not pair or any(sum(map(len, own.values())) < LEAST or not _sloped(own) for own in pair):
        return None
    ends = [[kl for runs in own.values() for kl, _ in runs] for own in pair]
    low, high = max(map(min, ends)), min(map(max, ends))
    values: dict[str, tuple[float, Interval | None]] = {}
    if low >= high:
        return Difference(len(seeds), low, high, values)
    kls = np.geomspace(low, high, GRID)
    compared = pair[0][seeds[0]][0][1]
    for key, transform, _, _ in QUANTITIES:
        if key in compared:
            whole = _mean(pair, key, transform, kls)
            without = [_mean([{s: runs for s, runs in own.items() if s != seed} for own in pair], key, transform, kls) for seed in seeds]
            values[key] = (whole, jackknife(whole, without) if len(seeds) >= INTERVAL_SEEDS else None)
    return Difference(len(seeds), low, high, values)


def _sloped(seeds: Mapping[int, Sequence[Any]]) -> bool:
    """Whether at least two seeds (or the only one) have several weights: seeds of one weight say nothing of a slope."""
    return sum(len(runs) > 1 for runs in seeds.values()) >= min(2, len(seeds))


def _mean(pair: Sequence[Mapping[int, Any]], key: str, transform: str, kls: np.ndarray) -> float:
    if not pair[0]:
        return math.nan
    first, second = (heights(line(own, key, transform), transform, kls) for own in pair)
    return float(np.mean(first - second))


def against(records: Sequence[Record], reference: str = "rloo", names: Mapping[str, str] | None = None) -> Table:
    """What each method has beyond the reference at equal KL.

    Args:
        records: runs named after method, weight and seed.
        reference: the method it is compared with.
        names: of methods, for readers.
    """
    found, rows = curves(records), []
    for method in sorted(found.keys() - {reference}):
        one = difference(found, method, reference)
        row: dict[str, Any] = {"method": (names or {}).get(method, method), "kls": "too few runs", "seeds": 0}
        if one is not None and not one.values:
            row |= {"kls": f"none: {one.low:.2f} is above {one.high:.2f}", "seeds": one.seeds}
        elif one is not None:
            row |= {"kls": f"{one.low:.2f} to {one.high:.2f}", "seeds": one.seeds}
            row |= {key: _said(*one.values[key], transform == "log", form) for key, transform, _, form in QUANTITIES}
        rows.append({**{key: "" for key, _, _, _ in QUANTITIES}, **row})
    columns = [("method", "Method", ""), ("kls", "KLs, nats/token", ""), ("seeds", "Seeds", "d")]
    columns += [(key, title, "") for key, _, title, _ in QUANTITIES]
    note = (
        f"Beyond {(names or {}).get(reference, reference)} at equal KL: lines in ln KL through all runs of a method (logits of reward and "
        "judge, distinct-2, logarithm of perplexity), mean difference over the KLs that both enclose; Student's 95% interval of the "
        f"jackknife over seeds where there are {INTERVAL_SEEDS}."
    )
    return Table("Against", columns, rows, [note])


def by_steps(records: Sequence[Record], steps: Sequence[int], reference: str = "rloo", names: Mapping[str, str] | None = None) -> Table:
    """Validation rewards beyond the reference's at equal KL, after the same number of steps.

    Args:
        records: runs; those that were not validated after all of these steps are left out.
        steps: from the first policy step.
        reference: the method they are compared with.
        names: of methods, for readers.
    """
    whole = [record for record in records if set(steps) <= {row["step"] for row in record.results["validation"]}]
    found = {step: curves(whole, step) for step in steps}
    rows = []
    for method in sorted(next(iter(found.values())).keys() - {reference}):
        row: dict[str, Any] = {"method": (names or {}).get(method, method), "seeds": 0}
        for step, one in found.items():
            compared = difference(one, method, reference)
            row[str(step)] = ""
            if compared is not None and compared.values:
                row["seeds"] = compared.seeds
                row[str(step)] = f"{_said(*compared.values['reward_mean'], False, '.3f')} at {compared.low:.1f} to {compared.high:.1f}"
        rows.append(row)
    columns = [("method", "Method", ""), ("seeds", "Seeds", "d"), *((str(step), f"after {step} steps", "") for step in steps)]
    note = "The same on 256 validation prompts while training, of runs that were validated after all of these steps."
    return Table("By steps", columns, rows, [note])


def _said(value: float, interval: Interval | None, factor: bool, form: str) -> str:
    """A difference with its interval, as a factor where logarithms were compared."""
    ends = [value] if interval is None else [value, interval.low, interval.high]
    mean, *rest = [f"{math.exp(end):{form}}" if factor else f"{end:+{form}}" for end in ends]
    return mean + (f" [{rest[0]}, {rest[1]}]" if rest else "")


def targets(records: Sequence[Record], methods: Sequence[str], names: Mapping[str, str]) -> Table:
    """Steps until the validation reward is at least so high at a KL of at most so much, in the weight of each method that is best for that.

    Best is the weight with the least median; a seed that never gets there counts as later than all others.

    Args:
        records: runs that were validated after the same steps.
        methods: in the order shown.
        names: of methods, for readers.
    """
    settings: dict[str, dict[str, list[list[dict[str, float]]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        method, beta, _ = method_weight_seed(record)
        settings[method][beta].append(record.results["validation"])
    rows = []
    for reward, kl in TARGETS:
        for method in methods:
            tried = []
            for beta, runs in settings[method].items():
                reached = sorted(_first(rows, reward, kl) for rows in runs)
                tried.append((float(np.median(reached)), -sum(map(math.isfinite, reached)) / len(reached), beta, reached))
            row = {"target": f"{reward:g} at {kl:g}", "method": names.get(method, method), "tried": len(tried)}
            if tried:
                _, _, beta, reached = min(tried)
                row |= {"beta": beta, "steps": " ".join("never" if step == math.inf else f"{step:.0f}" for step in reached)}
            rows.append({"beta": "", "steps": "not run", **row})
    columns = [
        ("target", "Reward, at a KL of at most", ""), ("method", "Method", ""), ("tried", "Weights tried", "d"),
        ("beta", "Best weight", ""), ("steps", "Steps, by seed", ""),
    ]  # fmt: skip
    note = (
        "First validation (256 prompts) inside; the best weight is chosen by these very seeds, so that more weights tried is an advantage."
    )
    return Table("Targets", columns, rows, [note])


def _first(rows: Sequence[Mapping[str, float]], reward: float, kl: float) -> float:
    return next((float(row["step"]) for row in rows if row["reward_mean"] >= reward and row["kl_mean"] <= kl), math.inf)
