"""The study on real IMDB as a resumable queue: ``python -m experiments.imdb_small.study --data FOLDER --model FOLDER``.

Parts run in order, so that whatever is reached is whole: a learning-rate sweep of equal size for each method, five methods with five
seeds at their best rate, the paper's protocol changed one key at a time into the released one, and temperatures.  A cell that has
results is skipped; a cell that was interrupted goes on from its checkpoint.  Finished runs are added, without weights and without
paths, to ``runs.parquet`` beside this file; ``--report`` makes everything that is derived from it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

from experiments.queue import OUTPUTS, Cell, Queue, study_arguments
from experiments.reports import refresh, samples_text
from grade_lightning.records.files import write_atomically
from grade_lightning.records.study_table import Record, read_table, run_keys

HERE = Path(__file__).parent
RECORDS = HERE / "runs.parquet"
METHODS = ("grade", "grade_ste", "ppo", "reinforce", "rloo")
RATES = ("3e-4", "1e-3", "3e-3")
SEEDS = (1, 2, 3, 4, 5)
COMMON = ("experiment=imdb_small", "max_steps=60", "max_new_tokens=32", "evaluation.val_prompts=256", "evaluation.test_prompts=500")
KL_COEF = 0.1
BROKEN_CONTEXT = "protocol.rollout_context=last_token"
MISMATCH = ("rollout.top_p=0.9", "rollout.top_k=20", "rollout.sampling_temperature=0.6", "protocol.logprobs=full")
# What changes the paper's protocol, one row of the audit at a time.
CHANGES = {
    "paper": dict.fromkeys(METHODS[:4], ()),
    "last_token": {"ppo": (BROKEN_CONTEXT,), "reinforce": (BROKEN_CONTEXT,)},
    "no_kl": {"grade": ("protocol.kl_in=none",), "grade_ste": ("protocol.kl_in=none",)},
    "completion_reward": {"grade_ste": ("reward.scope=completion",)},
    "sampling_mismatch": {"reinforce": MISMATCH, "ppo": MISMATCH},
    "gae_over_batch": {"ppo": ("protocol.gae_axis=batch",)},
    "released": dict.fromkeys(METHODS[:4], ()),
}
TEMPERATURES = {
    "constant_2": ("temperature=constant", "temperature.value=2.0"),
    "constant_1": ("temperature=constant", "temperature.value=1.0"),
    "constant_0.5": ("temperature=constant", "temperature.value=0.5"),
    "linear_250": ("temperature=linear", "protocol.anneal_steps=250"),
    "linear_2000": ("temperature=linear", "protocol.anneal_steps=2000"),
}


# What the README shows of each part's report.  The last part is no longer run: the methods at one rate, from before the sweep.
TABLES = ("table1.md", "table2.md", "quality.md")
SHOWN: dict[str, tuple[str, ...]] = {
    "rates": ("table1.md",), "controlled": (*TABLES, "frontier.png"), "averaged": TABLES, "protocols": TABLES,
    "temperatures": ("table1.md",), "one_rate": ("table1.md",),
}  # fmt: skip

_cell = partial(Cell, RECORDS)


def rates() -> list[Cell]:
    """The sweep: a seed that the study does not use, no test."""
    options = ("seed=0", "evaluation.test=false", "evaluation.validate_every=60")
    return [_cell("rates", f"{m}-{r}", (f"method={m}", f"optimizer.lr={r}", *options)) for m in METHODS for r in RATES]


def best_swept(swept: Sequence[Record], method: str) -> str:
    """The rate with the highest validation reward - beta KL after the last step: what every method maximises.

    Args:
        swept: runs named METHOD-RATE.
        method: of the sweep.

    Raises:
        LookupError: the sweep is not complete.
    """
    last = {record.name: record.results["validation"][-1] for record in swept}

    def objective(rate: str) -> float:
        row = last[f"{method}-{rate}"]
        return float(row["reward_mean"]) - KL_COEF * float(row["kl_mean"])

    return max(RATES, key=objective)


@cache
def best_rate(method: str, records: Path = RECORDS) -> str:
    """The rate of :func:`best_swept` in the study's records."""
    return best_swept(read_table(records, part="rates") if records.exists() else [], method)


def at_best(method: str) -> tuple[str, str]:
    """Overrides of a method with its rate."""
    return f"method={method}", f"optimizer.lr={best_rate(method)}"


def controlled() -> list[Cell]:
    """Five methods, five seeds: one seed of each method before the next seed."""
    return [_cell("controlled", f"{m}-seed{s}", (*at_best(m), f"seed={s}", "evaluation.validate_every=20")) for s in SEEDS for m in METHODS]


def averaged() -> list[Cell]:
    """PPO again, since its KL is scaled by the average of earlier batches' scales, where the controlled runs had each batch's own."""
    return [_cell("averaged", f"ppo-seed{s}", (*at_best("ppo"), f"seed={s}", "evaluation.validate_every=20")) for s in SEEDS]


def protocols() -> list[Cell]:
    """From what the paper says to what its code does."""
    cells = []
    for change, methods in CHANGES.items():
        protocol = "released" if change == "released" else "paper"
        for method, keys in methods.items():
            options = (f"protocol={protocol}", "seed=1", "evaluation.validate_every=60", *keys)
            cells.append(_cell("protocols", f"{change}-{method}", (*at_best(method), *options)))
    return cells


def temperatures() -> list[Cell]:
    """GRADE-STE; the controlled study's own schedule is 2 to 0.5 over the 60 steps."""
    options = (*at_best("grade_ste"), "seed=1", "evaluation.validate_every=20")
    return [_cell("temperatures", name, (*options, *keys)) for name, keys in TEMPERATURES.items()]


PARTS: dict[str, Callable[[], list[Cell]]] = {
    "rates": rates, "controlled": controlled, "averaged": averaged, "protocols": protocols, "temperatures": temperatures,
}  # fmt: skip


def not_run() -> list[str]:
    """Cells without a record, by the name of their part where the part cannot be listed before another one is finished."""
    missing, have = [], run_keys(RECORDS)
    for name, cells in PARTS.items():
        try:
            missing += [f"{cell.part}/{cell.name}" for cell in cells() if (cell.part, cell.name) not in have]
        except LookupError:
            missing.append(f"{name} (all of it: it needs the sweep's best rates)")
    return missing


def write_reports() -> int:
    """A report of each part that has records, from the records alone."""
    from grade_lightning.reporting.output import report

    have = {part for part, _ in run_keys(RECORDS)}
    for part, shown in SHOWN.items():
        if part in have:
            out = OUTPUTS / "imdb_small" / part
            for warning in report(RECORDS, out, part=part):
                print(f"{part}: {warning}", file=sys.stderr)
            refresh(out, HERE / "report" / part, shown)
            print(f"{part}: {out / 'report.html'}")
    first = [record for record in read_table(RECORDS, part="controlled") if record.name.endswith("-seed1")]
    write_atomically(HERE / "samples.md", samples_text(first))
    print("not run: " + (", ".join(not_run()) or "nothing"))
    return 0


def main() -> int:
    chosen = study_arguments(__doc__ or "", "imdb_small", list(PARTS))
    if chosen.report:
        return write_reports()
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work)
    for part in chosen.parts:
        try:
            cells = PARTS[part]()
        except LookupError as error:
            print(f"{part}: not run, because the sweep of rates is not complete ({error} is missing)")
            continue
        queue.run_all(cells, chosen.jobs)
    missing = not_run()
    print("not run: " + (", ".join(missing) or "nothing"))
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
