"""The Pareto front of a search with two objectives (``hparams_search=frontier``), as Hydra's Optuna sweeper left it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.table import Table

FILE = "optimization_results.yaml"
_NOTE = (
    "Settings of the search that no other of its runs beat in both validation reward and validation KL (nats per token), by KL. "
    "One seed each, and the best of many on one validation split: repeat those that matter with other seeds before comparing methods."
)


def pareto_front(root: Path) -> tuple[dict[str, Table], list[str]]:
    """Tables by the name of their file, one where a search of two objectives lies below ``root``, and what is wrong with what was found.

    Args:
        root: what is reported on.
    """
    warnings: list[str] = []
    rows = [row for file in sorted(root.rglob(FILE)) for row in _rows(file, root, warnings)] if root.is_dir() else []
    if not rows:
        return {}, warnings
    settings = list(dict.fromkeys(key for row in rows for key in row if key not in ("search", "reward", "kl")))
    several = len({row["search"] for row in rows}) > 1
    columns = [*([("search", "search", "")] if several else []), *((key, key, "") for key in settings)]
    columns += [("reward", "validation reward", ".3f"), ("kl", "validation KL", ".3f")]
    shown = [{key: f"{value:.3g}" if key in settings and is_number(value) else value for key, value in row.items()} for row in rows]
    return {"pareto": Table("Pareto front", columns, shown, [_NOTE])}, warnings


def _rows(file: Path, root: Path, warnings: list[str]) -> list[dict[str, Any]]:
    """One for each solution; none where the search had one objective."""
    try:
        found = yaml.safe_load(file.read_text())
        solutions = found.get("solutions", [])
        rows = [
            {
                "search": str(file.parent.relative_to(root)),
                **item["params"],
                "reward": float(item["values"][0]),
                "kl": float(item["values"][1]),
            }
            for item in solutions
        ]
    except (OSError, yaml.YAMLError, AttributeError, LookupError, TypeError, ValueError) as error:
        warnings.append(f"{file} holds no results of a search ({type(error).__name__}): left out")
        return []
    return sorted(rows, key=lambda row: row["kl"])
