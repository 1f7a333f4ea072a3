"""Runs to tables, tests, figures and one page: ``python -m grade_lightning.report PATH [--part PART] [--out OUT]``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

MOST_WARNINGS = 40  # printed


def main(arguments: list[str] | None = None) -> int:
    """0, or 2 where the tables cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m grade_lightning.report",
        description="Tables, tests, figures and one page from runs: report.html has it all.",
    )
    parser.add_argument(
        "path", type=Path, metavar="PATH", help="a study's table file (runs.parquet), a run folder, or a folder that holds such"
    )
    parser.add_argument("--part", help="of the table files, the runs of this part of the study alone")
    parser.add_argument("--out", type=Path, help="where the report goes (default: PATH/report, for a file outputs/report)")
    chosen = parser.parse_args(arguments)
    out = chosen.out or (Path("outputs") / "report" if chosen.path.is_file() else chosen.path / "report")
    from grade_lightning.reporting.output import report  # scipy and matplotlib take seconds to import

    try:
        warnings = report(chosen.path, out, part=chosen.part)
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
