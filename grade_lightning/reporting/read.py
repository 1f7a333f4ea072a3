"""Run folders as they are on disk, faults included."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml


@dataclass
class Run:
    """One run folder.

    Attributes:
        folder: where it is.
        results: ``results.json``.
        metrics: columns of ``metrics.csv``, nan where a cell is blank or no number.
    """

    folder: Path
    results: dict[str, Any]
    metrics: dict[str, list[float]] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return str(self.results["method"])

    @property
    def seed(self) -> int:
        return int(self.results["seed"])

    @cached_property
    def samples(self) -> list[dict[str, Any]]:
        """Lines of ``samples.jsonl`` that can be read; empty without one."""
        file = self.folder / "samples.jsonl"
        found = []
        for line in file.read_text().split("\n") if file.exists() else []:
            try:
                sample = json.loads(line) if line else {}
            except json.JSONDecodeError:
                continue  # a last line that was cut off
            if {"split", "prompt", "completion", "reward"} <= sample.keys():
                found.append(sample)
        return found

    @cached_property
    def config(self) -> dict[str, str]:
        """Resolved settings by dotted name; empty without a ``config.yaml``."""
        file = self.folder / "config.yaml"
        return dict(_flat("", yaml.safe_load(file.read_text()) or {})) if file.exists() else {}

    @cached_property
    def environment(self) -> dict[str, Any]:
        """``environment.json``; empty without one."""
        file = self.folder / "environment.json"
        return json.loads(file.read_text()) if file.exists() else {}

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed} ({self.folder.name})"

    def mean(self, column: str) -> float:
        """Mean of a metric over the steps that have it; nan without any."""
        values = [value for value in self.metrics.get(column, []) if math.isfinite(value)]
        return math.fsum(values) / len(values) if values else math.nan

    def per_prompt(self, split: str, name: str = "reward") -> dict[int, float]:
        """A measurement of each prompt of ``test`` or ``initial`` by prompt id; empty where the run did not keep it."""
        kept = self.results.get(split, {}).get("per_prompt") or {}
        return dict(zip(kept["prompt_id"], kept[name], strict=True)) if name in kept else {}

    def column(self, name: str) -> np.ndarray:
        """A column of ``metrics.csv`` step by step; empty where there is none."""
        return np.asarray(self.metrics.get(name, []), dtype=float)


def _flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, str(value)


def read_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Every run folder below ``root``, ordered by method and seed, and warnings about what could not be read.

    Raises:
        ValueError: no folder, or no finished run in it.
    """
    if not root.is_dir():
        raise ValueError(f"{root} is not a folder: give the folder of a run or of a sweep")
    runs, warnings = [], []
    for folder in sorted({file.parent for name in ("results.json", "metrics.csv") for file in root.rglob(name)}):
        try:
            results = json.loads((folder / "results.json").read_text())
            run = Run(folder, results)
            assert_keys(results)
        except FileNotFoundError:
            warnings.append(f"{folder}: no results.json, the run did not finish: left out")
            continue
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            warnings.append(f"{folder}: results.json cannot be read ({error!r}): left out")
            continue
        run.metrics, faults = read_metrics(folder / "metrics.csv")
        warnings += [f"{run.name}: {fault}" for fault in faults]
        runs.append(run)
    if not runs:
        raise ValueError(f"no finished run below {root}: " + ("; ".join(warnings) or "there is no results.json in it"))
    return sorted(runs, key=lambda run: (run.method, run.seed, str(run.folder))), warnings


def assert_keys(results: dict[str, Any]) -> None:
    """KeyError where one of the keys that a report cannot do without is missing."""
    for key in ("method", "seed", "validation", "best_validation"):
        results[key]


def read_metrics(file: Path) -> tuple[dict[str, list[float]], list[str]]:
    """Columns of a ``metrics.csv`` and what is wrong with it; a cut-off last line is left out."""
    if not file.exists():
        return {}, ["no metrics.csv: nothing about training can be shown"]
    faults, columns = [], {}
    with file.open(newline="") as stream:
        rows = list(csv.reader(stream))
    if not rows:
        return {}, ["metrics.csv is empty"]
    header, body = rows[0], rows[1:]
    whole = [row for row in body if len(row) == len(header)]
    if len(whole) < len(body):
        faults.append(f"metrics.csv has {len(body) - len(whole)} incomplete line(s): left out")
    for place, name in enumerate(header):
        columns[name] = [_number(row[place]) for row in whole]
    steps = columns.get("step", [])
    if any(later <= earlier for earlier, later in pairwise(steps)):
        faults.append("the steps of metrics.csv do not increase: two runs in one folder?")
    broken = [name for name in ("train/reward", "train/kl", "train/grad_norm") if not all(map(math.isfinite, columns.get(name, [])))]
    if broken:
        faults.append(f"no number in some steps of {', '.join(broken)}")
    return columns, faults


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
