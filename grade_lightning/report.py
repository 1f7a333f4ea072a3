"""Run folders to tables, tests, figures and one page: ``python -m grade_lightning.report DIR [--out OUT]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from grade_lightning.records.text import json_text
from grade_lightning.reporting.beyond import exploited, quality
from grade_lightning.reporting.figures import draw, save
from grade_lightning.reporting.page import page
from grade_lightning.reporting.read import Run, read_runs
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.table1 import table1
from grade_lightning.reporting.table2 import stability, table2
from grade_lightning.reporting.tests import Interval
from grade_lightning.reporting.variants import group, listed, repeated

MOST_WARNINGS = 40  # printed


def _plain(value: Any) -> Any:
    """Intervals as objects."""
    if isinstance(value, Interval):
        return value._asdict()
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def write_table(out: Path, name: str, table: Table) -> None:
    for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        (out / f"{name}.{suffix}").write_text(text)


_UNCOMPARABLE = {
    "protocol": "different protocols",
    "data": "different data",
    "model": "different models",
    "steps": "different numbers of steps",
}


def mixed(runs: list[Run]) -> list[str]:
    """Warnings about runs that should not stand in one table."""
    warnings = [
        f"runs of {what} stand in one table ({listed(sorted(values))}): their numbers are not comparable"
        for key, what in _UNCOMPARABLE.items()
        if len(values := {str(run.results.get(key)) for run in runs}) > 1
    ]
    if len({run.results.get("model_fingerprint") for run in runs if run.results.get("model_fingerprint")}) > 1:
        warnings.append("runs whose models have different weights stand in one table: their numbers are not comparable")
    kept = [set(run.per_prompt("test")) for run in runs if run.per_prompt("test")]
    if len(set(map(frozenset, kept))) > 1:
        shared = len(set.intersection(*kept))
        warnings.append(
            f"the runs were tested on different prompts: comparisons use the prompts that both sides have ({shared} are common to all)"
        )
    if len({run.results["test"]["n"] for run in runs if run.results["test"]}) > 1:
        warnings.append("the runs were tested on different numbers of prompts")
    return warnings


def within_noise(differences: Table, means: Table) -> list[str]:
    """Pairs that cannot be told apart (over seeds, else over prompts, else by spreads), and gaps within two standard errors."""
    close, warnings = [], []
    for row in differences.rows:
        p = next((row[key] for key in ("seed_holm", "prompt_holm", "unpaired_p") if row.get(key) is not None), None)
        if p is not None and p >= 0.05:
            close.append(f"{row['first']} - {row['second']}")
    if close:
        warnings.append(f"differences within noise (p of at least 0.05 over seeds, with one seed over prompts): {listed(close)}")
    small = [row["method"] for row in means.rows if "gap_error" in row and abs(row["gap"]) < 2 * row["gap_error"]]
    if small:
        warnings.append(f"generalisation gaps within two standard errors of 0: {listed(small)}")
    return warnings


def report(root: Path, out: Path) -> list[str]:
    """Write everything; returns the warnings."""
    runs, warnings = read_runs(root)
    variants = group(runs)
    tables = {"table1": table1(variants), "table2": table2(variants), "quality": quality(variants), "stability": stability(variants)}
    warnings += [*mixed(runs), *repeated(variants), *within_noise(tables["table2"], tables["table1"]), *exploited(tables["quality"])]
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(out, name, table)
    figures, empty = draw(variants)
    warnings += empty
    for name, (_, figure) in figures.items():
        save(figure, out, name)
    everything = {
        "runs": [str(run.folder.relative_to(root)) for run in runs],
        "warnings": warnings,
        **{n: _plain(t.rows) for n, t in tables.items()},
    }
    (out / "report.json").write_text(json_text(everything))
    (out / "report.html").write_text(page(variants, list(tables.values()), figures, warnings, name=root.resolve().name))
    return warnings


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where the tables cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m grade_lightning.report",
        description="Tables, tests, figures and one page from the run folders below DIR: report.html has it all.",
    )
    parser.add_argument("dir", type=Path, metavar="DIR", help="a run folder, or a sweep's")
    parser.add_argument("--out", type=Path, help="where the report goes (default: DIR/report)")
    chosen = parser.parse_args(arguments)
    out = chosen.out or chosen.dir / "report"
    try:
        warnings = report(chosen.dir, out)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for warning in warnings[:MOST_WARNINGS]:
        print(f"warning: {warning}", file=sys.stderr)
    if len(warnings) > MOST_WARNINGS:
        print(f"warning: {len(warnings) - MOST_WARNINGS} more in report.json and report.html", file=sys.stderr)
    for name in ("table1", "table2"):
        print((out / f"{name}.md").read_text())
    print(f"written to {out}: open report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
