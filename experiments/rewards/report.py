"""What the README shows of the records: how runs ended, and methods at equal KL."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.against import comparison
from experiments.weights import method_weight_seed
from grade_lightning.records.files import write_atomically
from grade_lightning.records.study_table import Record, read_table
from grade_lightning.reporting.table import Table

THIRTIES = (30, 60, 90, 120, 150, 180)
# Parts, and the steps after which their methods are compared.
STEPS = {
    "cross": (10, 20, 30), "cross_slow": THIRTIES, "cross_fresh": THIRTIES, "vader": (10, 20, 30), "preferences": (10, 20, 30),
}  # fmt: skip
NAMES = {
    "rloo": "RLOO", "grade_ste": "GRADE-STE, tau 2", "grpo_average": "GRPO", "grpo": "GRPO, KL by each batch",
    "annealed_grpo": "annealed into GRPO, all hops",
    "grade_ste-surrogate": "GRADE-STE by a surrogate", "residual": "residual",
}  # fmt: skip


def tables(records: Sequence[Record], steps: Sequence[int]) -> list[Table]:
    """Of one part: ends, and differences to RLOO, and to GRPO where it was run."""
    methods = sorted({method_weight_seed(record)[0] for record in records} - {"rloo"})
    references = ["rloo", *(method for method in methods if method.startswith("grpo"))]
    return comparison(records, steps, references, [(m, r) for r in references for m in methods if m != r], NAMES)


def write(records: Path, out: Path) -> None:
    """Tables of every part that has runs."""
    for part, steps in STEPS.items():
        found = read_table(records, part=part)
        if found:
            write_atomically(out / f"{part}.md", "\n\n".join(table.markdown() for table in tables(found, steps)))
