"""Runs at several weights of the KL, and the rewards of two methods at the same KL, prompt by prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.queue import Cell
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.significance import few_interval, mean_interval

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
    """Rewards [prompts] at a KL, linear between the neighbouring runs; None beyond the last of them."""
    if kl > runs[-1][0]:
        return None
    above = next(place for place, (reached, _) in enumerate(runs) if reached >= kl)
    if above == 0:
        return runs[0][1]
    (low, first), (high, second) = runs[above - 1], runs[above]
    return first + (second - first) * ((kl - low) / (high - low))


def compare(first: Mapping[int, Sequence[Point]], second: Mapping[int, Sequence[Point]], kls: Sequence[float]) -> list[dict[str, Any]]:
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
