"""Runs at several weights of the KL, and how they ended."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.queue import Cell
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.table import Table

ENDS = (
    ("reward_mean", "Test reward", ".3f"), ("kl_mean", "KL, nats/token", ".2f"), ("completion_reward_mean", "Completion alone", ".3f"),
    ("judge_mean", "Judge", ".3f"),
    ("perplexity", "Perplexity under reference", ".0f"), ("distinct_2", "Distinct-2", ".3f"),
    ("repeated_4_mean", "Repeated 4-grams", ".3f"),
)  # fmt: skip


USUAL = 3  # seeds of a weight


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


def suffixed(record: Record, suffix: str) -> Record:
    """The same run under its method's name with a suffix."""
    method, beta, seed = method_weight_seed(record)
    return dataclasses.replace(record, name=f"{method}{suffix}-beta{beta}-seed{seed}")


def grid(records: Sequence[Record], weights: Sequence[str], names: Mapping[str, str]) -> Table:
    """Where each method ended at each weight, mean test reward at mean KL.

    Args:
        records: named by :func:`by_weight`.
        weights: of the KL, in the order of the columns.
        names: methods' names for readers, in the order of the rows.
    """
    found: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        method, beta, _ = method_weight_seed(record)
        found[method, beta].append((record.results["test"]["reward_mean"], record.results["test"]["kl_mean"]))

    def cell(method: str, beta: str) -> str:
        ends = found.get((method, beta))
        if not ends:
            return ""
        reward, kl = np.mean(ends, axis=0)
        return f"{reward:.3f} at {kl:.2f}" + (f" ({len(ends)})" if len(ends) != USUAL else "")

    rows = [{"method": name, **{beta: cell(method, beta) for beta in weights}} for method, name in names.items()]
    columns = [("method", "Method", ""), *((beta, beta, "") for beta in weights)]
    note = f"Test reward at KL in nats per token, by weight of the KL; means of {USUAL} seeds, or of as many as stand in brackets."
    return Table("Grid", columns, rows, [note])


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
