"""The frontiers of a larger base: ``python -m experiments.frontier.larger --data FOLDER --model FOLDER --hardware h200 --jobs 10``.

A base of 64 million weights is pretrained on the unsupervised reviews into ``--model`` where nothing is there yet (products in bf16 where
the hardware group says so); rates are swept for RLOO and plain straight-through; then both and the mixture run at a third of their best
rate for three times the steps, as in :mod:`.study` and as there with the base in fp32.  Resumable; runs are kept in ``larger.parquet``
beside this file (or in ``--records``).
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.frontier.study import SEEDS, SLOW, at_rate
from experiments.imdb_small.study import COMMON, RATES, best_swept
from experiments.queue import Cell, Queue
from experiments.weights import by_weight
from grade_lightning.records.study_table import read_table

RECORDS = Path(__file__).parent / "larger.parquet"
SWEPT = ("rloo", "plain")
# A third of the best rate, or the grid's next lower.
LOWER = {"3e-4": "1e-4", "1e-3": "3e-4", "3e-3": "1e-3"}
WEIGHTS = {"annealed": ("0.2", "0.05"), "plain": ("0.05", "0.02"), "rloo": ("0.2", "0.05")}  # the longest runs first
# At the rate of the small base, 1e-3.
SAME_RATE_WEIGHTS = {"annealed_grpo": ("0.2", "0.05"), "annealed": ("0.2", "0.05"), "grpo": ("0.5", "0.1"), "rloo": ("0.2", "0.05")}
EVERY = ("evaluation.validate_every=30",)
PARTS = ("base", "rates", "slow", "same_rate")


def rates(records: Path) -> list[Cell]:
    """Each rate for 60 steps at a seed that the study does not use, without a test."""
    options = ("seed=0", "max_steps=60", "evaluation.test=false", "evaluation.validate_every=60")
    return [Cell(records, "rates", f"{m}-{rate}", (*at_rate(SLOW[m], rate), *options)) for rate in reversed(RATES) for m in SWEPT]


def slow(records: Path) -> list[Cell]:
    """Three times the steps of the sweep at a lower rate; the mixture has RLOO's rate."""
    swept = read_table(records, part="rates")
    chosen = {method: LOWER[best_swept(swept, method)] for method in SWEPT}
    methods = {method: at_rate(SLOW[method], chosen[method if method in chosen else "rloo"]) for method in WEIGHTS}
    return by_weight(records, "slow", methods, WEIGHTS, SEEDS, EVERY)


def same_rate(records: Path) -> list[Cell]:
    return by_weight(records, "same_rate", SLOW, SAME_RATE_WEIGHTS, SEEDS, EVERY)


def base(queue: Queue, model: Path, recipe: str, hardware: str) -> bool:
    """Pretrain where nothing is there yet; whether there is a base now."""
    if (model / "config.json").exists():
        return True
    data, _ = queue.paths
    command = [sys.executable, "-m", "grade_lightning.pretrain", "data=parquet", data, f"pretrain={recipe}", f"hardware={hardware}"]
    if queue.call([*command, f"out={model}"], queue.work / "base"):
        print(f"the base was not made, see {queue.work / 'base' / 'output.log'}", flush=True)
        return False
    report = json.loads((model / "pretraining.json").read_text())
    print(f"base: perplexity {report['perplexity']:.1f} after {report['tokens']:,} tokens", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with IMDB as Parquet")
    parser.add_argument("--model", required=True, type=Path, help="folder of the base, made there if it is not")
    parser.add_argument("--recipe", default="imdb_64m", help="of the pretrain group")
    parser.add_argument("--hardware", default="h200", help="of the hardware group")
    parser.add_argument("--work", type=Path, default=Path("multirun/larger"), help="where runs are made")
    parser.add_argument("--records", type=Path, default=RECORDS, help="table file of the runs")
    parser.add_argument("--jobs", type=int, default=8, help="runs at once, one thread each")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--overrides", nargs="*", default=[], help="of all runs, beside the study's")
    chosen = parser.parse_args()
    common = (*COMMON, f"hardware={chosen.hardware}", "evaluation.batch_size=256", "hardware.precision=fp32", *chosen.overrides)
    queue = Queue(common, chosen.data, str(chosen.model), chosen.work)
    if "base" in chosen.parts and not base(queue, chosen.model, chosen.recipe, chosen.hardware):
        return 1
    if "rates" in chosen.parts:
        queue.run_all(rates(chosen.records), chosen.jobs)
    for name, part in {"slow": slow, "same_rate": same_rate}.items():
        if name in chosen.parts:
            queue.run_all(part(chosen.records), chosen.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
