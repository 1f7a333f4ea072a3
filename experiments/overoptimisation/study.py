"""Over-optimisation of a learned reward (Gao et al. 2210.10760).

``python -m experiments.overoptimisation.study --data FOLDER --model FOLDER``

A gold head knows every labelled review but 1,000; proxies know the first 100, 300, 1,000 and 5,000 of the reward split, all trained for the
same number of steps.  RLOO and plain straight-through maximise a proxy without a KL term, where Adam takes away any gain of the reward's
gradient; both rewards and the KL are measured every five steps on fixed prompts, and for the initial policy's best of n.  Resumable; runs
are kept in ``runs.parquet``, best-of-n curves in ``measured.parquet``; ``--report`` fits Gao's forms to them (:mod:`.fits`).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from experiments.frontier.study import METHODS as FRONTIER_METHODS
from experiments.overoptimisation.fits import write
from experiments.queue import Cell, Queue, study_arguments
from grade_lightning.records.leaves import add_leaves, read_leaves

HERE = Path(__file__).parent
RECORDS = HERE / "runs.parquet"
MEASURED = HERE / "measured.parquet"
SEEDS = (1, 2)
ROWS = (100, 300, 1000, 5000)
SAMPLES = 40_000  # rows x epochs, of every head
# Below the best ones, so that runs pass slowly through the KLs; at 1e-3 plain straight-through goes from 0.03 to 2.4 nats in 10 steps.
RATES = {"rloo": "optimizer.lr=1e-3", "plain": "optimizer.lr=3e-4"}
METHODS = {name: (*(o for o in FRONTIER_METHODS[name] if "optimizer.lr" not in o), rate) for name, rate in RATES.items()}
GOLD = (
    "+reward@evaluation.judges.gold=classifier_head", "evaluation.judges.gold.head.learn_from=labelled",
    "evaluation.judges.gold.head.lr=1e-3", "evaluation.judges.gold.head.batch_size=32", "evaluation.judges.gold.head.epochs=4",
    "evaluation.judges.gold.head.text_tokens=128",
)  # fmt: skip
SETTING = ("experiment=imdb_small", "max_new_tokens=32", *GOLD)
COMMON = (
    *SETTING, "max_steps=80", "kl_coef=0", "evaluation.validate_every=5", "evaluation.val_prompts=256", "evaluation.test_prompts=256",
)  # fmt: skip
# RLOO at straight-through's rate, three times as long: whether a difference at equal KL is one of rates.
CONTROL = ("optimizer.lr=3e-4", "max_steps=240", "evaluation.validate_every=15")
CONTROLLED = ((300, 1), (1000, 1), (100, 2), (5000, 2))  # rows of the proxy and seed
PARTS = ("runs", "control", "best_of_n")


def proxy(rows: int) -> tuple[str, ...]:
    """Overrides of a head that knows so many reviews."""
    return (f"reward.head.rows={rows}", f"reward.head.epochs={SAMPLES // rows}")


def runs() -> list[Cell]:
    return [
        Cell(RECORDS, "runs", f"{method}-rows{rows}-seed{seed}", (*overrides, *proxy(rows), f"seed={seed}"))
        for seed in SEEDS
        for rows in ROWS
        for method, overrides in METHODS.items()
    ]


def control() -> list[Cell]:
    rloo = tuple(o for o in METHODS["rloo"] if "optimizer.lr" not in o)
    return [
        Cell(RECORDS, "control", f"rloo_slow-rows{rows}-seed{seed}", (*rloo, *CONTROL, *proxy(rows), f"seed={seed}"))
        for rows, seed in CONTROLLED
    ]


def best_of_n(queue: Queue) -> None:
    """Proxy and gold rewards of the best of n by each proxy."""
    for rows in ROWS:
        name, folder = f"best_of_n/{rows}", queue.work / "best_of_n" / str(rows)
        if name not in read_leaves(MEASURED) and queue.measure(
            "best_of_n", folder, *SETTING, *proxy(rows), "evaluation.val_prompts=256", "split=validation"
        ):
            add_leaves(MEASURED, name, json.loads(queue.without_paths((folder / "best_of_n.json").read_text())))


def main() -> int:
    chosen = study_arguments(__doc__ or "", "overoptimisation", PARTS)
    if chosen.report:
        write(RECORDS, MEASURED, HERE)
        return 0
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work)
    if "runs" in chosen.parts:
        queue.run_all(runs(), chosen.jobs)
    if "control" in chosen.parts:
        queue.run_all(control(), chosen.jobs)
    if "best_of_n" in chosen.parts:
        best_of_n(queue)
    return 0


if __name__ == "__main__":
    sys.exit(main())
