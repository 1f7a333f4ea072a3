"""Runs at several weights of the KL, how they ended, and the rewards of two methods at the same KL, prompt by prompt."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.queue import Cell
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.significance import Interval, few_interval, mean_interval
from grade_lightning.reporting.table import Table

KLS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
ENDS = (
    ("reward_mean", "Test reward", ".3f"), ("kl_mean", "KL, nats/token", ".2f"), ("completion_reward_mean", "Completion alone", ".3f"),
    ("judge_mean", "Judge", ".3f"),
    ("perplexity", "Perplexity under reference", ".0f"), ("distinct_2", "Distinct-2", ".3f"),
    ("repeated_4_mean", "Repeated 4-grams", ".3f"),
)  # fmt: skip

Point = tuple[float, np.ndarray]  # KL, rewards of the test prompts


def by_weight(  # noqa: PLR0917
    records: Path, part: str, methods: Mapping[str, Sequence[str]], weights: Mapping[str, Sequence[str]], seeds: Sequence[int],
    more: Sequence[str] = (),
) -> list[Cell]:  # fmt: skip
    """A run of every method at each of its weights; one seed of everything before the next seed.

    Args:
        records: the study's table file.
        part: of the study.
        methods: overrides by name.
        weights: of the KL, by method.
        seeds: of the runs.
        more: overrides of all.
    """
    return [
        Cell(records, part, f"{name}-beta{beta}-seed{seed}", (*methods[name], *more, f"kl_coef={beta}", f"seed={seed}"))
        for seed in seeds
        for name, betas in weights.items()
        for beta in betas
    ]


def method_weight_seed(record: Record) -> tuple[str, str, int]:
    """What :func:`by_weight` named a run after."""
    method, rest = record.name.rsplit("-beta", 1)
    beta, seed = rest.split("-seed")
    return method, beta, int(seed)


def points(records: Sequence[Record]) -> list[Point]:
    """Runs of one method and seed by their test KL, from the initial policy at 0 on; the same prompts in the same order."""
    first = records[0].results["initial"]["per_prompt"]
    found = [(0.0, np.asarray(first["reward"]))]
    for record in records:
        test = record.results["test"]
        assert test["per_prompt"]["prompt_id"] == first["prompt_id"]
        found.append((float(test["kl_mean"]), np.asarray(test["per_prompt"]["reward"])))
    return sorted(found, key=lambda point: point[0])


def at(runs: Sequence[Point], kl: float) -> np.ndarray | None:
    """Rewards [prompts] at a KL, linear between the neighbouring runs; None outside of them."""
    if not runs or not runs[0][0] <= kl <= runs[-1][0]:
        return None
    above = next(place for place, (reached, _) in enumerate(runs) if reached >= kl)
    if above == 0:
        return runs[0][1]
    (low, first), (high, second) = runs[above - 1], runs[above]
    return first + (second - first) * ((kl - low) / (high - low))


def compare(
    first: Mapping[int, Sequence[Point]], second: Mapping[int, Sequence[Point]], kls: Sequence[float]
) -> list[dict[str, Any]]:  # fmt: skip
    """A row for each KL that some seeds of both reach: mean rewards, and first - second over seeds and over prompts.

    Args:
        first: points by seed.
        second: of the method it is compared with.
        kls: in nats per token.
    """
    rows = []
    for kl in kls:
        pairs = [(at(first[seed], kl), at(second[seed], kl)) for seed in sorted(first.keys() & second.keys())]
        both = [(a, b) for a, b in pairs if a is not None and b is not None]
        if len(both) < 2:
            continue
        differences = np.asarray([a - b for a, b in both])
        rows.append({
            "kl": kl, "seeds": len(both), "first": float(np.mean([a.mean() for a, _ in both])),
            "second": float(np.mean([b.mean() for _, b in both])), "over_seeds": few_interval(differences.mean(axis=1).tolist()),
            "over_prompts": mean_interval(differences.mean(axis=0).tolist()),
        })  # fmt: skip
    return rows


def over_all(
    first: Mapping[int, Sequence[Point]], second: Mapping[int, Sequence[Point]], kls: Sequence[float]
) -> tuple[int, Interval] | None:  # fmt: skip
    """Mean over those of :func:`compare`'s KLs that a seed's runs of both reach, and over seeds: one number for what moves together.

    Arguments are those of :func:`compare`.

    Returns:
        Number of seeds, and the mean of their differences with Student's interval; None with fewer than two.
    """
    found, kls = [], [row["kl"] for row in compare(first, second, kls)]
    for seed in sorted(first.keys() & second.keys()):
        pairs = [(at(first[seed], kl), at(second[seed], kl)) for kl in kls]
        differences = [a.mean() - b.mean() for a, b in pairs if a is not None and b is not None]
        if differences:
            found.append(float(np.mean(differences)))
    return (len(found), few_interval(found)) if len(found) > 1 else None


def ends(records: Sequence[Record]) -> Table:
    """Means over seeds of each method and weight; the initial policy first."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        method, beta, _ = method_weight_seed(record)
        groups[method, beta].append(record)

    known = [column for column in ENDS if all(column[0] in record.results["test"] for record in records)]

    def row(name: str, beta: str, tests: list[dict[str, Any]]) -> dict[str, Any]:
        each = " ".join(f"{test['reward_mean']:.3f}" for test in tests)
        return {"method": name, "beta": beta, "seeds": each, **{key: float(np.mean([t[key] for t in tests])) for key, _, _ in known}}

    rows = [{**row("initial policy", "", [records[0].results["initial"]]), "seeds": ""}]
    rows += [row(*key, [record.results["test"] for record in group]) for key, group in sorted(groups.items())]
    columns = [("method", "Method", ""), ("beta", "beta", ""), ("seeds", "Test reward, by seed", ""), *known]
    return Table("Ends", columns, rows, ["Means over seeds of the last weights on the same 500 test prompts."])


def at_equal_kl(records: Sequence[Record], first: str, second: str) -> Table:
    """Reward of two methods at the same KL."""
    runs: dict[str, dict[int, list[Record]]] = {first: defaultdict(list), second: defaultdict(list)}
    for record in records:
        method, _, seed = method_weight_seed(record)
        if method in runs:
            runs[method][seed].append(record)
    known: list[dict[int, list[Point]]] = [{seed: points(listed) for seed, listed in runs[name].items()} for name in (first, second)]
    columns = [
        ("kl", "KL, nats/token", ".2f"), ("seeds", "Seeds", "d"), ("first", first, ".3f"), ("second", second, ".3f"),
        ("over_seeds", "Difference, over seeds", ""), ("over_prompts", "over prompts", ""),
    ]  # fmt: skip
    notes = [
        "Rewards between runs of neighbouring weights of the KL, linear in the KL, prompt by prompt; the initial policy stands at 0. "
        "95% intervals: Student's over seeds, bootstrap over the 500 prompts (the mean over seeds of each).",
    ]
    whole = over_all(known[0], known[1], KLS)
    if whole is not None:
        notes.append(f"Mean over those of these KLs that a seed reaches, and over {whole[0]} seeds: {whole[1]}.")
    return Table("At equal KL", columns, compare(known[0], known[1], KLS), notes)
