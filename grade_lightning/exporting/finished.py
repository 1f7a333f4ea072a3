"""What a finished run says of itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from grade_lightning.records.from_folder import by_prompt, pairs, read_samples
from grade_lightning.settings import Settings

_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class FinishedRun:
    """A run folder as values.

    Attributes:
        path: of the folder.
        settings: checked. config: the same as plain values, as the run wrote them.
        results, environment: of ``results.json`` and ``environment.json``.
        samples: the lines of ``samples.jsonl``.
    """

    path: Path
    settings: Settings
    config: dict[str, Any]
    results: dict[str, Any]
    environment: dict[str, Any]
    samples: list[dict[str, Any]]

    @property
    def fingerprint(self) -> str | None:
        """Of the base: a commit of the hub, or a hash of a folder's files."""
        return self.results.get("model_fingerprint")

    @property
    def hub(self) -> str | None:
        """The base's hub id; None where it was a folder or was pretrained for the run."""
        path = self.settings.model.path
        return path if path is not None and _COMMIT.fullmatch(self.fingerprint or "") else None

    @property
    def dtype(self) -> str:
        """Of the base's weights, as torch calls it."""
        return {"fp32": "float32", "bf16": "bfloat16"}[self.settings.hardware.precision]

    def pairs(self, most: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Samples of the same prompts before and after training: of the test, or of the first and the last validation without one."""
        before, after = by_prompt(self.samples, "initial"), by_prompt(self.samples, "test")
        if not (before and after):
            steps = [sample["step"] for sample in self.samples if sample["split"] == "validation"]
            before, after = (by_prompt(self.samples, "validation", s) for s in (min(steps), max(steps))) if steps else ({}, {})
        return pairs(before, after)[:most]


def read_finished(path: Path, settings: Settings, config: dict[str, Any]) -> FinishedRun:
    """The rest of a run folder.

    Raises:
        ValueError: it is not finished, or a file cannot be read.
    """
    if not (path / "results.json").exists():
        raise ValueError(f"{path} holds no finished run: it has no results.json (repeat its command to go on with it)")
    try:
        results, environment = (json.loads((path / name).read_text()) for name in ("results.json", "environment.json"))
        samples = read_samples(path) if (path / "samples.jsonl").exists() else []
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} cannot be read as a run: {error}") from error
    if not isinstance(results, dict) or not isinstance(environment, dict) or not results.get("validation"):
        raise ValueError(f"{path} cannot be read as a run: results.json or environment.json is not what a run writes")
    _check_numbers(path, results)
    return FinishedRun(path, settings, config, results, environment, samples)


def _check_numbers(path: Path, results: dict[str, Any]) -> None:
    """Raise ValueError where a card would show something else than a number as one."""
    best = results.get("best_validation") or {}
    shown = {"steps": results.get("steps"), "seed": results.get("seed"), "best_validation.step": best.get("step")}
    shown |= {f"validation.{name}": value for row in results["validation"] for name, value in row.items()}
    for split in ("initial", "test"):
        shown |= {f"{split}.{name}": value for name, value in (results.get(split) or {}).items() if name != "per_prompt"}
    wrong = [name for name, value in shown.items() if not (value is None or isinstance(value, int | float))]
    if wrong:
        raise ValueError(f"{path} cannot be read as a run: {wrong[0]} of results.json is no number")
