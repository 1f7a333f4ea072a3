"""A finished run folder as values."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from grade_lightning.records.study_table import Record

SAMPLED = 4  # prompts whose continuations before and after training are kept of each run


def read_folder(folder: Path, part: str, name: str, *, without_paths: Callable[[str], str] = str) -> Record:
    """What a finished run left, number for number, with a few of its samples.

    Args:
        part, name: its key in a study.
        without_paths: applied to the text of the configuration and the environment, such as to replace the names of a machine's folders.

    Raises:
        ValueError: a file is missing or cannot be read.
    """
    import yaml

    try:
        config = yaml.safe_load(without_paths((folder / "config.yaml").read_text()))
        environment = json.loads(without_paths((folder / "environment.json").read_text()))
        results = json.loads((folder / "results.json").read_text())
        metrics = metric_columns((folder / "metrics.csv").read_text())
        return Record(part, name, config, environment, results, metrics, _few(read_samples(folder)))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ValueError(
            f"{folder} cannot be kept as a record ({error}): let the run finish, or remove the folder to run it again"
        ) from error


def metric_columns(text: str) -> dict[str, list[float | None]]:
    """Columns of a ``metrics.csv``; None for a blank cell.

    Raises:
        ValueError: a cell is no number, or a line is cut short.
    """
    header, *rows = list(csv.reader(io.StringIO(text)))
    columns: dict[str, list[float | None]] = {name: [] for name in header}
    for row in rows:
        for name, cell in zip(header, row, strict=True):
            columns[name].append(float(cell) if cell else None)
    return columns


def read_samples(folder: Path) -> list[dict[str, Any]]:
    """The lines of a run's ``samples.jsonl``.

    Raises:
        OSError: there is none.
        ValueError: a line is no JSON.
    """
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().split("\n") if line]


def by_prompt(samples: Iterable[Mapping[str, Any]], split: str, step: int | None = None) -> dict[Any, Any]:
    """Samples of a split, and of a step where one is given, by their prompts' ids."""
    return {sample["prompt_id"]: sample for sample in samples if sample["split"] == split and step in (None, sample["step"])}


def pairs(before: Mapping[Any, Any], after: Mapping[Any, Any]) -> list[tuple[Any, Any]]:
    """Samples of the prompts that stand in both."""
    return [(before[prompt], after[prompt]) for prompt in before if prompt in after]


def _few(samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first continuations of the initial policy and of the test: the same prompts, as every run has them in the same order."""
    return [sample for split in ("initial", "test") for sample in [s for s in samples if s["split"] == split][:SAMPLED]]
