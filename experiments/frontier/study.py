"""Frontiers of reward against KL: ``python -m experiments.frontier.study --data FOLDER --model FOLDER``.

RLOO, plain straight-through, and plain straight-through with a calibrated gain of the reward's gradient, each at several weights of the KL,
on the setting of ``experiments/imdb_small``; the initial policy's best of n on the same test prompts; and where the length of a
straight-through gradient goes (:mod:`.length`).  Resumable; runs are kept in ``runs.parquet``, the curve in ``best_of_n.json`` and the
rest in ``measured.parquet`` beside this file.
"""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.equal_kl import by_weight
from experiments.frontier.length import measure
from experiments.imdb_small.study import COMMON, at_best
from experiments.queue import OUTPUTS, Cell, Queue, study_arguments
from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import add_leaves, read_leaves
from grade_lightning.records.text import finite
from grade_lightning.training.environment import environment

HERE = Path(__file__).parent
RECORDS = HERE / "runs.parquet"
MEASURED = HERE / "measured.parquet"
CURVE = HERE / "best_of_n.json"
SEEDS = (1, 2, 3)
PLAIN = ("method=decoupled_st", "temperature=constant", "temperature.value=1.0", at_best("rloo")[1])
CALIBRATED = (*PLAIN, "method.reward_gain=calibrated", "method.completions_per_prompt=4")
# Weights of the KL; 0.1 of RLOO and of plain straight-through stand in the records of imdb_small and gradient_quality, of the same setting.
WEIGHTS = {"calibrated": ("0.1", "0.03", "0.3"), "rloo": ("0.3", "0.03"), "plain": ("0.03", "0.01")}
METHODS = {"calibrated": CALIBRATED, "rloo": at_best("rloo"), "plain": PLAIN}
PARTS = ("length", "frontier", "best_of_n")


def frontier() -> list[Cell]:
    return by_weight(RECORDS, "frontier", METHODS, WEIGHTS, SEEDS, ("evaluation.validate_every=10",))


def length(queue: Queue) -> None:
    """Where the length goes."""
    if "length" not in read_leaves(MEASURED):
        found = measure(["experiment=imdb_small", "max_new_tokens=32", *queue.paths])
        add_leaves(MEASURED, "length", finite({**found, "environment": environment()}))


def best_of_n(queue: Queue) -> None:
    """The curve on the study's own test prompts."""
    if CURVE.exists():
        return
    folder = queue.work / "best_of_n"
    if queue.measure("best_of_n", folder, *queue.common):
        write_atomically(CURVE, queue.without_paths((folder / "best_of_n.json").read_text()))


def show() -> int:
    """The report of the records."""
    from grade_lightning.reporting.output import report

    for warning in report(RECORDS, OUTPUTS / "frontier"):
        print(warning, file=sys.stderr)
    print(OUTPUTS / "frontier" / "report.html")
    return 0


def main() -> int:
    chosen = study_arguments(__doc__ or "", "frontier", PARTS)
    if chosen.report:
        return show()
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work)
    if "length" in chosen.parts:
        length(queue)
    if "frontier" in chosen.parts:
        queue.run_all(frontier(), chosen.jobs)
    if "best_of_n" in chosen.parts:
        best_of_n(queue)
    return 0


if __name__ == "__main__":
    sys.exit(main())
