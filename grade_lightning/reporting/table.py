"""Tables as rows of named values, and their Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

from grade_lightning.reporting.significance import Interval


@dataclass
class Table:
    """Rows with the same keys; a column is (key, heading, format)."""

    title: str
    columns: list[tuple[str, str, str]]
    rows: list[dict[str, Any]]
    notes: list[str]

    def cells(self, row: dict[str, Any]) -> list[str]:
        return [_text(row.get(key), spec) for key, _, spec in self.columns]

    def markdown(self) -> str:
        lines = [[heading for _, heading, _ in self.columns], ["---"] * len(self.columns), *map(self.cells, self.rows)]
        body = "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
        return body + "\n\n" + "\n".join(f"{note}  " for note in self.notes).rstrip() + "\n"

    def latex(self) -> str:
        """A booktabs tabular."""
        lines = [[heading for _, heading, _ in self.columns], *map(self.cells, self.rows)]
        head, *body = [" & ".join(map(_escape, line)) + r" \\" for line in lines]
        inside = "\n".join([r"\toprule", head, r"\midrule", *body, r"\bottomrule"])
        return f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}\n{inside}\n\\end{{tabular}}\n" + "".join(
            f"% {n}\n" for n in self.notes
        )

    def csv(self) -> str:
        """Unrounded; an interval takes three columns."""
        stream = io.StringIO()
        flat = [_flat(row) for row in self.rows]
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(flat)
        return stream.getvalue()


def _text(value: Any, spec: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if spec == "p":  # of a test
        return "< 0.001" if value < 0.001 else f"{value:.3f}"
    return str(value) if isinstance(value, str | Interval) else format(value, spec)


_LATEX = {"\\": r"\textbackslash{}", "%": r"\%", "_": r"\_", "&": r"\&", "#": r"\#", "$": r"\$", "±": r"$\pm$", "<": "$<$", ">": "$>$"}


def _escape(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in text)


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Interval):
            flat.update({key: value.mean, f"{key}_low": value.low, f"{key}_high": value.high})
        else:
            flat[key] = value
    return flat
