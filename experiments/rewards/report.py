"""What the README shows of the records: reward at equal KL, and how each run ended."""

from __future__ import annotations

from pathlib import Path

from experiments.equal_kl import at_equal_kl, ends
from grade_lightning.records.files import write_atomically
from grade_lightning.records.study_table import read_table

COMPARED = {"cross": ("grade_ste", "rloo"), "vader": ("residual", "rloo"), "preferences": ("grade_ste", "rloo")}


def write(records: Path, out: Path) -> None:
    """Tables of every part that has runs."""
    for part, (first, second) in COMPARED.items():
        found = read_table(records, part=part)
        if not found:
            continue
        text = ends(found).markdown() + "\n" + at_equal_kl(found, first, second).markdown()
        write_atomically(out / f"{part}.md", text)
