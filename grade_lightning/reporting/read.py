"""Runs as they are on disk, in folders or in a study's table file, faults included."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from grade_lightning.records.study_table import is_table, read_table
from grade_lightning.reporting.clean import clean, is_number
from grade_lightning.reporting.pairing import Prompt, occurrences

OPTIONAL = ("samples.jsonl", "config.yaml", "environment.json")
TRAINING = ("train/reward", "train/loss", "train/kl", "train/grad_norm", "train/grad_norm_tensor_std")  # what figures and tables use


@dataclass
class Run:
    """One run.

    Attributes:
        folder: where it is: its folder, or ``FILE/part/name`` for a row of a table file.
        results: ``results.json``, see :func:`grade_lightning.reporting.clean.clean`.
        metrics: columns of ``metrics.csv``, nan where a cell is blank or no number.
        samples: lines of ``samples.jsonl``; config: settings by dotted name; environment: ``environment.json``; empty where missing.
    """

    folder: Path
    results: dict[str, Any]
    metrics: dict[str, list[float]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)
    config: dict[str, str] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    @property
    def method(self) -> str:
        return str(self.results["method"])

    @property
    def seed(self) -> int:
        return int(self.results["seed"])

    @property
    def name(self) -> str:
        return f"{self.method}, seed {self.seed} ({self.folder.name})"

    def mean(self, column: str) -> float:
        """Mean of a metric over the steps that have it; nan without any."""
        values = [value for value in self.metrics.get(column, []) if math.isfinite(value)]
        return math.fsum(values) / len(values) if values else math.nan

    def per_prompt(self, split: str, name: str = "reward") -> dict[Prompt, float]:
        """A measurement of each prompt of ``test`` or ``initial``, where it is a number; empty where it was not kept."""
        kept = self.results[split].get("per_prompt") or {}
        if name not in kept:
            return {}
        return {key: v for key, v in zip(occurrences(kept["prompt_id"]), kept[name], strict=True) if math.isfinite(v)}

    def column(self, name: str) -> np.ndarray:
        """A column of ``metrics.csv`` step by step; empty where there is none."""
        return np.asarray(self.metrics.get(name, []), dtype=float)


def read_runs(root: Path, *, part: str | None = None) -> tuple[list[Run], list[str]]:
    """Every run of a table file, or of the run folders and table files below a folder, and warnings about what could not be read.

    Args:
        part: of a study: the runs of this part of the table files alone.

    Returns:
        Runs ordered by method and seed; warnings.

    Raises:
        ValueError: no such file or folder, or no finished run in it.
    """
    if not root.exists():
        raise ValueError(f"{root} is no file and no folder: give a study's table file, or the folder of a run or of a sweep")
    warnings: list[str] = []
    faulty: dict[str, list[str]] = {}
    tables = [root] if root.is_file() else [file for file in sorted(root.rglob("*.parquet")) if _holds_runs(file)]
    found = [_from_table(file, part) for file in tables]
    if part is None and root.is_dir():
        found.append(_from_folders(root, warnings))
    runs = [run for listed in found for run, _ in listed]
    for run, faults in (pair for listed in found for pair in listed):
        for fault in faults:
            faulty.setdefault(fault, []).append(run.name)
    warnings += _folded(faulty)
    if not runs:
        inside = "" if part is None else f" in part {part!r}"
        raise ValueError(f"no finished run below {root}{inside}: " + ("; ".join(warnings) or "there is no results.json in it"))
    return sorted(runs, key=lambda run: (run.method, run.seed, str(run.folder))), warnings


def _holds_runs(file: Path) -> bool:
    """Whether a Parquet file below the folder is a table of runs: it may be a data set, or damaged, which is nothing to report on."""
    import pyarrow as pa

    try:
        return is_table(file)
    except (pa.ArrowException, OSError):
        return False


def _from_table(file: Path, part: str | None) -> list[tuple[Run, list[str]]]:
    """Runs of a table file and what is wrong with each."""
    import pyarrow as pa

    try:
        records = read_table(file, part=part)
    except pa.ArrowException as error:
        raise ValueError(f"{file} cannot be read ({error}): give a study's table file, or a folder with run folders") from error
    found = []
    for record in records:
        try:
            results, faults = clean(record.results)
        except ValueError as error:
            raise ValueError(f"{file}: the run {record.part}/{record.name} cannot be read ({error})") from error
        metrics = {name: [math.nan if v is None else v for v in values] for name, values in record.metrics.items()}
        config = dict(flat("", record.config))
        run = Run(file / record.part / record.name, results, metrics, record.samples, config, record.environment)
        found.append((run, faults + _faults_of_metrics(metrics) + _missing_steps(run)))
    return found


def _from_folders(root: Path, warnings: list[str]) -> list[tuple[Run, list[str]]]:
    """Runs of the folders below ``root`` and what is wrong with each; what is no run is added to the warnings."""
    found = []
    names = ("results.json", "metrics.csv", "config.yaml", "error.txt")
    for folder in sorted({file.parent for name in names for file in root.rglob(name)}):
        if not (folder / "results.json").exists():
            if folder.name not in (".hydra", "report"):
                warnings.append(f"{folder}: no results.json, the run did not finish: left out{_reason(folder)}")
            continue
        try:
            results, faults = clean(json.loads((folder / "results.json").read_text()))
        except (OSError, ValueError) as error:  # JSON and text decoding errors are ValueErrors
            warnings.append(f"{folder}: results.json cannot be read ({error}): left out")
            continue
        run = Run(folder, results)
        absent = [name for name in OPTIONAL if not (folder / name).exists()]
        if absent:
            faults.append(f"no {', '.join(absent)}")
        for load in (_load_metrics, _load_samples, _load_config, _load_environment):
            faults += load(run)
        found.append((run, faults))
    return found


def _folded(faulty: dict[str, list[str]]) -> list[str]:
    """A warning for each fault, with the runs that have it; by name where they are few."""
    return [
        f"{', '.join(names)}: {fault}" if len(names) <= 3 else f"{fault} in {len(names)} runs ({', '.join(names[:2])}, ...)"
        for fault, names in faulty.items()
    ]


def _reason(folder: Path) -> str:
    file = folder / "error.txt"
    return f" ({file.read_text(errors='replace').strip()[:200]})" if file.exists() else ""


def _load_metrics(run: Run) -> list[str]:
    run.metrics, faults = read_metrics(run.folder / "metrics.csv")
    return faults + _missing_steps(run)


def _missing_steps(run: Run) -> list[str]:
    steps, planned = run.metrics.get("step", []), run.results.get("steps")
    if steps and planned is not None and is_number(planned) and len(steps) < planned:
        return [f"metrics.csv has {len(steps)} of {planned} steps"]
    return []


def _load_samples(run: Run) -> list[str]:
    file = run.folder / "samples.jsonl"
    if not file.exists():
        return []
    broken = 0
    for line in file.read_text(errors="replace").split("\n"):
        try:
            sample = json.loads(line) if line.strip() else None
        except json.JSONDecodeError:
            sample, broken = None, broken + 1
        if isinstance(sample, dict) and all(isinstance(sample.get(key), str) for key in ("split", "prompt", "completion")):
            run.samples.append(sample)
        elif sample is not None:
            broken += 1
    return [f"samples.jsonl has {broken} line(s) that are no samples: left out"] if broken else []


def _load_config(run: Run) -> list[str]:
    file = run.folder / "config.yaml"
    if not file.exists():
        return []
    try:
        found = yaml.safe_load(file.read_text())
    except (yaml.YAMLError, ValueError) as error:
        return [f"config.yaml cannot be read ({type(error).__name__})"]
    run.config = dict(flat("", found)) if isinstance(found, dict) else {}
    return []


def _load_environment(run: Run) -> list[str]:
    file = run.folder / "environment.json"
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text())
    except ValueError:
        return ["environment.json cannot be read"]
    run.environment = found if isinstance(found, dict) else {}
    return []


def flat(prefix: str, value: Any) -> Iterator[tuple[str, str]]:
    """Nested values by dotted name, as text."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from flat(f"{prefix}.{key}" if prefix else str(key), item)
    else:
        yield prefix, str(value)


def read_metrics(file: Path) -> tuple[dict[str, list[float]], list[str]]:
    """Columns of a ``metrics.csv`` and what is wrong with it; lines that were cut off are left out."""
    if not file.exists():
        return {}, ["no metrics.csv: nothing about training can be shown"]
    text = file.read_text(errors="replace")
    rows = [row for row in csv.reader(text.splitlines()) if row]
    if not rows:
        return {}, ["metrics.csv is empty"]
    header, body = rows[0], rows[1:]
    whole = [row for row in body if len(row) == len(header)]
    faults = [f"metrics.csv has {len(body) - len(whole)} incomplete line(s): left out"] if len(whole) < len(body) else []
    if whole and body[-1] is whole[-1] and not text.endswith("\n"):
        whole = whole[:-1]  # its last number may have lost digits
        faults.append("metrics.csv does not end with a line break: its last line is left out")
    columns = {name: [_number(row[place]) for row in whole] for place, name in enumerate(header)}
    return columns, faults + _faults_of_metrics(columns)


def _faults_of_metrics(columns: dict[str, list[float]]) -> list[str]:
    faults, steps = [], columns.get("step", [])
    if not steps:
        faults.append("metrics.csv has no steps")
    if any(not later > earlier for earlier, later in pairwise(steps)):
        faults.append("the steps of metrics.csv do not increase: two runs in one folder?")
    absent = [name for name in TRAINING if name not in columns]
    if absent:
        faults.append(f"metrics.csv lacks {', '.join(absent)}")
    broken = [name for name in TRAINING if not all(map(math.isfinite, columns.get(name, [])))]
    if broken:
        faults.append(f"no number in some steps of {', '.join(broken)}")
    return faults


def _number(cell: str) -> float:
    try:
        return float(cell)
    except ValueError:
        return math.nan
