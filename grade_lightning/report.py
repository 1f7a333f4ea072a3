"""Run folders to tables: ``python -m grade_lightning.report DIR [--out OUT]``."""

from __future__ import annotations

import argparse
import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.statistics import Interval
from grade_lightning.reporting.tables import Table, repeated, table1


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


def report(root: Path, out: Path) -> list[str]:
    """Write everything; returns the warnings."""
    runs, warnings = read_runs(root)
    if len({run.results.get("protocol") for run in runs}) > 1:
        warnings.append("runs of different protocols stand in one table: their numbers are not comparable")
    if len({run.results.get("data") for run in runs}) > 1 or len({run.results.get("model_fingerprint") for run in runs}) > 1:
        warnings.append("runs on different data or models stand in one table: their numbers are not comparable")
    if len({tuple(sorted(run.rewards("test"))) for run in runs if "test" in run.results}) > 1:
        warnings.append("the runs were tested on different prompts: no paired comparison is possible")
    warnings += repeated(runs)
    tables = {"table1": table1(runs)}
    out.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        write_table(out, name, table)
    everything = {
        "runs": [str(run.folder) for run in runs],
        "warnings": warnings,
        **{n: _plain(asdict(t)["rows"]) for n, t in tables.items()},
    }
    (out / "report.json").write_text(json.dumps(everything, indent=1) + "\n")
    return warnings


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where the tables cannot be made."""
    parser = argparse.ArgumentParser(prog="python -m grade_lightning.report", description="Tables from the run folders below DIR.")
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
    print((out / "table1.md").read_text())
    print(f"written to {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
