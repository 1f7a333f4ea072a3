"""Gradients on real IMDB: ``python -m experiments.gradient_quality.study --data FOLDER --model FOLDER``.

1. midway: a run of RLOO and one of GRADE-STE, stopped in the middle of the 60 steps of ``experiments/imdb_small``.
2. checkpoints: ``python -m grade_lightning.gradients`` for the initial policy with perturbed adapters and for both of these.
3. rates, curves: training by the estimators that imdb_small does not have, at as many tokens, seeds and rates as its methods.
4. sgd: the same training by normalised gradients alone, steps of equal length without Adam: does the better gradient then get further?
5. alarm: how often ``evaluation.gradient_cosine_every`` warns at these checkpoints, where nothing is wrong and where the sign is.

Resumable, like the gradient study itself.  Runs are kept in ``runs.parquet``, all else in ``gradients.parquet``, beside this file;
``--report`` makes everything that is derived from them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from experiments.gradient_quality.alarm import alarm_rates
from experiments.imdb_small.study import COMMON, METHODS, RATES, SEEDS, at_best, best_rate
from experiments.imdb_small.study import RECORDS as IMDB_SMALL
from experiments.queue import OUTPUTS, Cell, Queue, study_arguments
from experiments.reports import refresh
from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import add_leaves, read_leaves
from grade_lightning.records.study_table import run_keys
from grade_lightning.records.text import finite
from grade_lightning.study.plan import folder_of
from grade_lightning.training.environment import environment

HERE = Path(__file__).parent
RECORDS = HERE / "runs.parquet"
GRADIENTS = HERE / "gradients.parquet"  # checkpoints/NAME, alarm/NAME and no_hop_over_all/NAME, by paired.py
MIDWAY = ("rloo", "grade_ste")
FIRST = ("rloo", "grade_ste:tau=2:rollouts=16", "grade_ste:tau=1")
REST = (
    "reinforce", "grade_ste:tau=0.5", "decoupled_st:tau=1", "reinmax:tau=1", "gumbel_rao:tau=1", "grade:tau=2", "grade:tau=1",
    "grade_ste:tau=1:max_hops=0", "grade_ste:tau=1:max_hops=1", "grade_ste:tau=1:max_hops=2",
)  # fmt: skip
SAMPLES = ("prompts=48", "draws=2", "rollouts=16", "relaxed_rollouts=4")
LENGTH = ("experiment=imdb_small", "max_new_tokens=32")
# The three best at the checkpoints, which imdb_small did not train; plain straight-through has its temperature fixed at 1 by definition.
TRAINED = {
    "decoupled_st": ("method=decoupled_st", "temperature=constant", "temperature.value=1.0"),
    "grade_ste-tau2": ("method=grade_ste", "temperature=constant", "temperature.value=2.0"),
    "hybrid": ("method=hybrid",),
    "grade_ste-tau2-no_hops": ("method=grade_ste", "temperature=constant", "temperature.value=2.0", "method.max_hops=0"),
}
CLIP = 1e-6  # below the norm of any gradient, so that a step of SGD is lr * CLIP long
LENGTHS = (0.03, 0.1, 0.3, 1.0)  # of a step; AdamW's first at 3e-3 is about 1 long
NORMALISED = {
    "rloo": ("method=rloo", "method.completions_per_prompt=4"),
    "grade_ste-tau2": TRAINED["grade_ste-tau2"],
}
WATCHED = ("grade_ste:tau=2", "grade_ste:tau=0.5")
WATCH = ("prompts=64", "draws=2", "rollouts=4", "group=4")  # the alarm's own completions, on more prompts
# Variants of a method whose rate imdb_small has chosen.
SWEPT = {"grade_ste-tau2": "grade_ste", "grade_ste-tau2-no_hops": "grade_ste"}
PARTS = ("checkpoints", "curves", "sgd", "alarm")
COMPARED = ("rloo", "grade_ste")

_cell = partial(Cell, RECORDS)


def midway() -> list[Cell]:
    options = ("max_steps=30", "protocol.anneal_steps=60", "seed=1", "evaluation.validate_every=30", "evaluation.test=false")
    return [_cell("midway", method, (*at_best(method), *options)) for method in MIDWAY]


def rates() -> list[Cell]:
    options = ("seed=0", "evaluation.test=false", "evaluation.validate_every=60")
    return [
        _cell("rates", f"{name}-{r}", (*keys, f"optimizer.lr={r}", *options))
        for name, keys in TRAINED.items()
        if name not in SWEPT
        for r in RATES
    ]


def curves() -> list[Cell]:
    found = []
    for seed in SEEDS:
        for name, keys in TRAINED.items():
            rate = best_rate(SWEPT[name]) if name in SWEPT else best_rate(name, RECORDS)
            options = (f"optimizer.lr={rate}", f"seed={seed}", "evaluation.validate_every=20")
            found.append(_cell("curves", f"{name}-seed{seed}", (*keys, *options)))
    return found


def sgd() -> list[Cell]:
    found = []
    for seed in (1, 2):
        for name, keys in NORMALISED.items():
            for length in LENGTHS:
                steps = ("optimizer.name=sgd", f"optimizer.max_grad_norm={CLIP}", f"optimizer.lr={length / CLIP:g}")
                found.append(_cell("sgd", f"{name}-{length:g}-seed{seed}", (*keys, *steps, f"seed={seed}", "evaluation.validate_every=20")))
    return found


def _gradients(folder: Path, name: str, queue: Queue, methods: Sequence[str], samples: Sequence[str]) -> bool:
    """The gradient study at one checkpoint; whether it could be made."""
    place = () if name == "initial" else (f"checkpoint={queue.work / 'midway' / name}",)
    done = queue.measure("gradients", folder, f"methods={','.join(methods)}", *samples, *place, *LENGTH)
    if done:
        print(f"{folder.parent.name}/{name}: {len(methods)} methods", flush=True)
    return done


def watch(name: str, queue: Queue) -> None:
    """The alarm's rates at one checkpoint."""
    folder, record = queue.work / "alarm" / name, f"alarm/{name}"
    if record in read_leaves(GRADIENTS) or not _gradients(folder, name, queue, ("rloo", *WATCHED), WATCH):
        return
    rates = {spec: alarm_rates(folder / "rloo", folder / folder_of(spec)) for spec in WATCHED}
    cosines = {spec: found["numbers"]["cosine"] for spec, found in json.loads((folder / "results.json").read_text())["estimators"].items()}
    found = finite({"rates": rates, "cosines": cosines, "samples": WATCH, "environment": environment()})
    add_leaves(GRADIENTS, record, json.loads(queue.without_paths(json.dumps(found))))


def measure(name: str, queue: Queue) -> None:
    """The gradient study at one checkpoint, the decisive methods first, then all."""
    folder, record = queue.work / "checkpoints" / name, f"checkpoints/{name}"
    if record in read_leaves(GRADIENTS):
        return
    for methods in (FIRST, FIRST + REST):
        if not _gradients(folder, name, queue, methods, SAMPLES):
            return
    add_leaves(GRADIENTS, record, json.loads(queue.without_paths((folder / "results.json").read_text())))
    show_checkpoint(name)


def show_checkpoint(name: str) -> None:
    """Table and figure of a checkpoint's gradients, from the records alone."""
    from grade_lightning.study.output import figure, from_json, table

    found, out = from_json(read_leaves(GRADIENTS)[f"checkpoints/{name}"]), OUTPUTS / "gradient_quality" / "checkpoints" / name
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "table.md", table(found).markdown())
    figure(found, out)
    refresh(out, HERE / "checkpoints" / name, ("table.md", "rho.png"))


def curve_runs(compared: Collection[str] = COMPARED) -> list[Any]:
    """Runs of these estimators and those of imdb_small that they are compared with."""
    from grade_lightning.reporting.read import read_runs

    others = read_runs(IMDB_SMALL, part="controlled")[0]
    for run in others:
        run.folder = run.folder.with_name(run.folder.name.replace("grade_ste-", "grade_ste-annealed-"))
    found = [*read_runs(RECORDS, part="curves")[0], *(run for run in others if run.method in compared)]
    return sorted(found, key=lambda run: (run.method, run.seed, run.folder.name))


def show_all() -> int:
    """Training curves beside those of imdb_small, and what the gradients are like, from the records alone."""
    from grade_lightning.reporting.output import write_report
    from grade_lightning.reporting.table2 import table2
    from grade_lightning.reporting.variants import group

    for name in ("initial", *MIDWAY):
        show_checkpoint(name)
    runs, out = curve_runs(), OUTPUTS / "gradient_quality" / "curves"
    for warning in write_report(runs, [run.folder.name for run in runs], out, part="curves"):
        print(warning, file=sys.stderr)
    refresh(out, HERE / "report", ("table1.md", "table2.md", "quality.md", "frontier.png"))
    print(out / "report.html")
    every = group(curve_runs(METHODS))  # all that both studies compare, for one adjustment over all of their pairs
    write_atomically(HERE / "report" / "all_pairs.md", table2(every).markdown())
    have = run_keys(RECORDS)
    print("not run: " + (", ".join(f"{c.part}/{c.name}" for c in (*curves(), *sgd()) if (c.part, c.name) not in have) or "nothing"))
    return 0


def main() -> int:
    chosen = study_arguments(__doc__ or "", "gradient_quality", PARTS)
    if chosen.report:
        return show_all()
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work)
    if "checkpoints" in chosen.parts:
        queue.run_all(midway(), chosen.jobs)
        with ThreadPoolExecutor(chosen.jobs) as pool:
            list(pool.map(lambda name: measure(name, queue), ("initial", *MIDWAY)))
    if "curves" in chosen.parts:
        for part in (rates, curves):
            queue.run_all(part(), chosen.jobs)
    if "sgd" in chosen.parts:
        queue.run_all(sgd(), chosen.jobs)
    if "alarm" in chosen.parts:
        with ThreadPoolExecutor(chosen.jobs) as pool:
            list(pool.map(lambda name: watch(name, queue), ("initial", *MIDWAY)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
