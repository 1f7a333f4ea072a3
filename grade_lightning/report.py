"""Run folders to tables, tests, figures and one page: ``python -m grade_lightning.report DIR [--out OUT]``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from grade_lightning.reporting.figures import draw, save
from grade_lightning.reporting.page import page
from grade_lightning.reporting.quality import exploited, quality
from grade_lightning.reporting.read import Run, read_runs
from grade_lightning.reporting.statistics import Interval
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.table1 import table1
from grade_lightning.reporting.table2 import stability, table2
from grade_lightning.reporting.variants import group, repeated


def _plain(value: Any) -> Any:
    if isinstance(value, Interval):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, float) and not math.isfinite(value):
        return None  # JSON has no NaN
    return [_plain(item) for item in value] if isinstance(value, list) else value


def write_table(out: Path, name: str, table: Table) -> None:
    for suffix, text in (("md", table.markdown()), ("tex", table.latex()), ("csv", table.csv())):
        (out / f"{name}.{suffix}").write_text(text)


def mixed(runs: list[Run]) -> list[str]:
    """Warnings about runs that should not stand in one table."""
    warnings = []
    if len({run.results.get("protocol") for run in runs}) > 1:
        warnings.append("runs of different protocols stand in one table: their numbers are not comparable")
    if len({run.results.get("data") for run in runs}) > 1 or len({run.results.get("model_fingerprint") for run in runs}) > 1:
        warnings.append("runs on different data or models stand in one table: their numbers are not comparable")
    if len({tuple(sorted(run.per_prompt("test"))) for run in runs if run.results.get("test")}) > 1:
        warnings.append("the runs were tested on different prompts: no paired comparison is possible")
    untested = [run.name for run in runs if not run.results.get("test")]
    if untested:
        warnings.append(f"no test evaluation: {', '.join(untested)}")
    return warnings


def within_noise(table: Table) -> list[str]:
    """Pairs whose difference is not distinguishable over seeds (over prompts, where there is one seed)."""
    close = []
    for row in table.rows:
        p = row.get("seed_holm", row.get("prompt_holm"))
        if p is not None and p >= 0.05:
            close.append(f"{row['first']} and {row['second']}")
    return [f"differences within noise (Holm-adjusted p of at least 0.05): {'; '.join(close)}"] if close else []


def report(root: Path, out: Path) -> list[str]:
    """Write everything; returns the warnings."""
    runs, warnings = read_runs(root)
    variants = group(runs)
    tables = {"table1": table1(variants), "table2": table2(variants), "quality": quality(variants), "stability": stability(variants)}
    warnings += [*mixed(runs), *repeated(variants), *within_noise(tables["table2"]), *exploited(tables["quality"])]
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(out, name, table)
    everything = {
        "runs": [str(run.folder.relative_to(root)) for run in runs],
        "warnings": warnings,
        **{n: _plain(t.rows) for n, t in tables.items()},
    }
    (out / "report.json").write_text(json.dumps(everything, indent=1) + "\n")
    figures = draw(variants)
    for name, (_, figure) in figures.items():
        save(figure, out, name)
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
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr)
    for name in ("table1", "table2"):
        print((out / f"{name}.md").read_text())
    print(f"written to {out}: open report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
