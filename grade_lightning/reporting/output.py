"""A report's files: tables, figures, one JSON file and one page."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from grade_lightning.records.files import write_atomically
from grade_lightning.records.text import json_text
from grade_lightning.reporting.answer import answer
from grade_lightning.reporting.beyond import exploited, quality
from grade_lightning.reporting.cautions import NOT_COMPARABLE, mixed, within_noise
from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.drawing import save
from grade_lightning.reporting.facts import report_title
from grade_lightning.reporting.figures import draw
from grade_lightning.reporting.frontier import Curve
from grade_lightning.reporting.page import page
from grade_lightning.reporting.pareto import pareto_front
from grade_lightning.reporting.read import Run, read_runs
from grade_lightning.reporting.significance import Interval
from grade_lightning.reporting.sweep import equal_kl
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.table1 import table1
from grade_lightning.reporting.table2 import stability, table2
from grade_lightning.reporting.variants import Variant, group, repeated


def tables(variants: list[Variant]) -> dict[str, Table]:
    """Every table of a report by the name of its file."""
    made = {"table1": table1(variants), "table2": table2(variants), "quality": quality(variants), "stability": stability(variants)}
    swept = equal_kl(variants)
    return made if swept is None else {**made, "equal_kl": swept}


def report(root: Path, out: Path, *, part: str | None = None) -> list[str]:
    """Read what is at ``root``, see :func:`grade_lightning.reporting.read.read_runs`, and write the report; returns the warnings."""
    runs, warnings = read_runs(root, part=part)
    names = [str(run.folder.relative_to(root)) for run in runs]
    curve, faults = best_of_n(root)
    front, unread = pareto_front(root)
    return write_report(runs, names, out, [*warnings, *faults, *unread], part=part, curve=curve, more=front)


def best_of_n(root: Path) -> tuple[Curve, list[str]]:
    """The points that ``python -m grade_lightning.best_of_n`` left in a folder or beside a table file, and what is wrong with them."""
    files = sorted(root.rglob("best_of_n.json")) if root.is_dir() else [root.with_name("best_of_n.json")]
    files = [file for file in files if file.exists()]
    if not files:
        return [], []
    try:
        found = json.loads(files[0].read_text())["curve"]
        points = [point for point in found if all(is_number(point.get(name)) for name in ("n", "kl_mean", "reward_mean"))]
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        return [], [f"{files[0]} holds no best-of-n curve ({type(error).__name__}): left out"]
    return points, [f"several best-of-n curves below {root}: {files[0]} is drawn"] if len(files) > 1 else []


def write_report(
    runs: list[Run], names: list[str], out: Path, warnings: Collection[str] = (), *, part: str | None = None, curve: Curve | None = None,
    more: Mapping[str, Table] | None = None,
) -> list[str]:  # fmt: skip
    """Write the report of some runs; returns the warnings.

    Args:
        names: of the runs, as ``report.json`` lists them.
        warnings: about what was read.
        part: of a study, for the page's title.
        curve: the initial policy's best of n.
        more: further tables by the name of their file.
    """
    variants = group(runs)
    made = {**tables(variants), **(more or {})}
    uncomparable = mixed(runs)
    sentences = answer(variants, made, [warning for warning in uncomparable if warning.endswith(NOT_COMPARABLE)])
    doubts = [*warnings, *uncomparable, *repeated(variants), *within_noise(made["table2"], made["table1"]), *exploited(made["quality"])]
    out.mkdir(parents=True, exist_ok=True)
    for name, table in made.items():
        _write_table(out, name, table)
    figures, empty = draw(variants, curve)
    doubts += empty
    for name, (_, figure) in figures.items():
        save(figure, out, name)
    everything: dict[str, Any] = {"runs": names, "answer": sentences, "warnings": doubts, "best_of_n": curve or []}
    everything |= {name: _plain(table.rows) for name, table in made.items()}
    write_atomically(out / "report.json", json_text(everything))
    write_atomically(
        out / "report.html", page(variants, list(made.values()), figures, doubts, sentences=sentences, name=report_title(variants, part))
    )
    return doubts


def _write_table(out: Path, name: str, table: Table) -> None:
    for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        write_atomically(out / f"{name}.{suffix}", text)


def _plain(value: Any) -> Any:
    """Intervals as objects."""
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value
