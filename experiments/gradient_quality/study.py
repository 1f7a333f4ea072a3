"""Gradients on real IMDB: ``python -m experiments.gradient_quality.study --data FOLDER --model FOLDER``.

1. midway: a run of RLOO and one of GRADE-STE, stopped in the middle of the 60 steps of ``experiments/imdb_small``.
2. checkpoints: ``python -m grade_lightning.gradients`` for the initial policy with perturbed adapters and for both of these.
3. rates, curves: training by the estimators that imdb_small does not have, at as many tokens, seeds and rates as its methods.
4. sgd: the same training by normalised gradients alone, steps of equal length without Adam: does the better gradient then get further?
5. alarm: how often ``evaluation.gradient_cosine_every`` warns at these checkpoints, where nothing is wrong and where the sign is.

Resumable, like the gradient study itself; ``--report`` rebuilds the curves' report from the committed records.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from experiments.gradient_quality.alarm import alarm_rates
from experiments.imdb_small.study import COMMON, RATES, SEEDS, at_best, best_rate
from experiments.imdb_small.study import RECORDS as IMDB_SMALL
from experiments.queue import Cell, Queue, study_arguments
from grade_lightning.records.text import json_text
from grade_lightning.report import report
from grade_lightning.study.plan import folder_of
from grade_lightning.training.environment import environment

HERE = Path(__file__).parent
RECORDS = HERE / "runs"
CHECKPOINTS = HERE / "checkpoints"
ALARM = HERE / "alarm"
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
    command = [sys.executable, "-m", "grade_lightning.gradients", f"methods={','.join(methods)}", *samples, *place, *LENGTH, *queue.paths]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "output.log").open("a") as log:
        done = subprocess.run([*command, f"out={folder}"], stdout=log, stderr=subprocess.STDOUT, check=False, env=queue.environment)
    print(
        f"{folder.parent.name}/{name}: {len(methods)} methods" + (f" failed, see {folder / 'output.log'}" if done.returncode else ""),
        flush=True,
    )
    return done.returncode == 0


def watch(name: str, queue: Queue) -> None:
    """The alarm's rates at one checkpoint."""
    folder, record = queue.work / "alarm" / name, ALARM / f"{name}.json"
    if record.exists() or not _gradients(folder, name, queue, ("rloo", *WATCHED), WATCH):
        return
    rates = {spec: alarm_rates(folder / "rloo", folder / folder_of(spec)) for spec in WATCHED}
    cosines = {spec: found["numbers"]["cosine"] for spec, found in json.loads((folder / "results.json").read_text())["estimators"].items()}
    ALARM.mkdir(exist_ok=True)
    text = json_text({"rates": rates, "cosines": cosines, "samples": WATCH, "environment": environment()})
    record.write_text(queue.without_paths(text))


def measure(name: str, queue: Queue) -> None:
    """The gradient study at one checkpoint, the decisive methods first, then all; its results beside this file."""
    folder, record = queue.work / "checkpoints" / name, CHECKPOINTS / name
    if (record / "results.json").exists():
        return
    for methods in (FIRST, FIRST + REST):
        if not _gradients(folder, name, queue, methods, SAMPLES):
            return
    record.mkdir(parents=True, exist_ok=True)
    for file in ("rho.png", "rho.pdf", "table.md"):
        shutil.copy(folder / file, record / file)
    (record / "results.json").write_text(queue.without_paths((folder / "results.json").read_text()))


def write_report() -> int:
    """Training curves of these estimators beside those of imdb_small, from the records alone."""
    with tempfile.TemporaryDirectory() as together:
        for record in (RECORDS / "curves").glob("*"):
            shutil.copytree(record, Path(together) / record.name)
        for method in COMPARED:
            for record in (IMDB_SMALL / "controlled").glob(f"{method}-seed*"):
                shutil.copytree(record, Path(together) / record.name.replace("grade_ste-", "grade_ste-annealed-"))
        missing = [f"{cell.part}/{cell.name}" for cell in (*curves(), *sgd()) if not cell.finished]
        for warning in report(Path(together), HERE / "report"):
            print(warning, file=sys.stderr)
    print(HERE / "report" / "report.html")
    print("not run: " + (", ".join(missing) or "nothing"))
    return 0


def main() -> int:
    chosen = study_arguments(__doc__ or "", "gradient_quality", PARTS)
    if chosen.report:
        return write_report()
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work, commit=chosen.commit)
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
