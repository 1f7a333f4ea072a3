"""Frontiers of reward against KL: ``python -m experiments.frontier.study --data FOLDER --model FOLDER``.

Policy gradients and straight-through estimators, each at several weights of the KL, on the setting of ``experiments/imdb_small``; the rate
beyond the edge of that study's grid, for the methods whose best rate was its edge; the initial policy's best of n on the same test prompts;
and where the length of a straight-through gradient goes (:mod:`.length`).  Resumable; runs are kept in ``runs.parquet``, the curve in
``best_of_n.json`` and the rest in ``measured.parquet`` beside this file.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from experiments.frontier import linear
from experiments.frontier.cost import measure as costs
from experiments.frontier.length import measure
from experiments.frontier.names import GRID
from experiments.imdb_small.study import COMMON, at_best
from experiments.queue import OUTPUTS, Cell, Queue, keep_measured, study_arguments
from experiments.weights import by_weight
from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import add_leaves, read_leaves

HERE = Path(__file__).parent
RECORDS = HERE / "runs.parquet"
MEASURED = HERE / "measured.parquet"
CURVE = HERE / "best_of_n.json"
SEEDS = (1, 2, 3)


def at_rate(overrides: Sequence[str], rate: str) -> tuple[str, ...]:
    """Overrides with a learning rate in place of their own."""
    return (*(override for override in overrides if "optimizer.lr" not in override), f"optimizer.lr={rate}")


RATE = at_best("rloo")[1]
CONSTANT = "temperature=constant"
SPREAD = "method.prompt_weights=spread"
PLAIN = ("method=decoupled_st", CONSTANT, "temperature.value=1.0", RATE)
MIXED, HOPS = ("method=annealed", CONSTANT, "temperature.value=1.0", RATE), "method.max_hops=null"
CALIBRATED = ("method.reward_gain=calibrated", "method.completions_per_prompt=4")
METHODS = {
    "rloo": at_best("rloo"),
    "plain": PLAIN,
    "ste": (*at_best("grade_ste"), CONSTANT, "temperature.value=2.0"),
    "calibrated_along": (*PLAIN, *CALIBRATED),
    "calibrated_along_layer": (*PLAIN, *CALIBRATED, "method.gain_scope=layer"),
    "grpo": ("method=grpo", RATE),
    "ppo": at_best("ppo"),
    "reinforce": at_best("reinforce"),
    "grade": at_best("grade"),
    "annealed": (*MIXED, HOPS, "method.policy_gradient=rloo"),
    "annealed_grpo": (*MIXED, HOPS, "method.policy_gradient=grpo"),
    "annealed_no_hops": (*MIXED, "method.max_hops=0", "method.policy_gradient=grpo"),
    "annealed_spread": (*MIXED, HOPS, "method.policy_gradient=grpo", SPREAD),
    "hybrid": ("method=hybrid", CONSTANT, "temperature.value=1.0", RATE),
    "rloo_cv": ("method=rloo_cv", RATE),
    "grad2reward": ("method=grad2reward", RATE),
    "entrgi": ("method=entrgi", CONSTANT, "temperature.value=1.0", RATE),
}
# Runs named calibrated, calibrated_projection, calibrated_layer and calibrated_batch are of revisions that learned the gain from products
# of gradients within each step, calibrated_along of these, which take products with the means of earlier steps.  Runs named ppo and grpo
# are of revisions that scaled the KL by each batch's own scale (ppo at 0.1, of imdb_small: not at all), ppo_average and grpo_average of
# these, which average it over steps.
METHODS |= {f"{name}_average": METHODS[name] for name in ("ppo", "grpo")}
# Weights of the KL, in the order in which they are run; runs at 0.1 of most methods stand in the records of imdb_small and
# gradient_quality, of the same setting.
WEIGHTS = {
    "rloo": ("0.5", "0.02", "0.2", "0.05", "0.01"),
    "plain": ("0.02", "0.2", "0.05", "0.01", "0.5"),
    "ste": ("0.02", "0.05", "0.01", "0.2", "0.5"),
    "calibrated_along": GRID,
    "calibrated_along_layer": ("0.1", "0.02"),
    "grpo": ("0.1", "0.5", "2", "0.02"),
    "grpo_average": GRID,
    "rloo_cv": ("0.1", "0.02"),
    "hybrid": GRID,
    "grad2reward": ("0.02", "0.1"),
    "entrgi": ("0.02", "0.1"),
    "ppo": ("0.02", "0.5"),
    "ppo_average": GRID[1:],
    "reinforce": GRID[1:],
    "grade": GRID[1:],
}
CORE = ("rloo", "plain", "ste")  # all seeds of these before the first of the others
# Gradients of the reward and of the KL apart, with intervals of their lengths.
ESTIMATORS = ("rloo", "decoupled_st:tau=1", "grade_ste:tau=2")
SETTING = ("experiment=imdb_small", "max_new_tokens=32")
SAMPLES = ("prompts=48", "draws=2", "rollouts=16", "relaxed_rollouts=4")
# The grid of imdb_small ends at 3e-3, and these were best there.
EDGES = ("rloo", "plain", "ste", "reinforce", "grade")
# Rates above are the best for 60 steps.  A third of the rate for three times the steps, for those that are compared most.
SLOW = {
    name: (*at_rate(METHODS[name], "1e-3"), "max_steps=180")
    for name in ("rloo", "plain", "annealed", "grpo", "grpo_average", "annealed_grpo", "annealed_no_hops", "annealed_spread", "rloo_cv",
                 "hybrid")
}  # fmt: skip
SLOW_WEIGHTS = {
    "rloo": ("0.2", "0.05", "0.5", "0.02", "1", "0.01"), "plain": ("0.05", "0.02", "0.2", "0.01"),
    "annealed": ("0.2", "0.05", "0.5", "0.02"), "grpo": ("0.5", "0.1", "2", "0.02"),
    "annealed_grpo": ("0.2", "0.05", "0.5", "1", "0.02"), "annealed_no_hops": ("0.2", "0.05"), "annealed_spread": ("0.2", "0.05"),
    "rloo_cv": ("0.2", "0.05"), "hybrid": ("0.2", "0.05"), "grpo_average": ("0.2", "0.05", "0.5", "2"),
}  # fmt: skip
# The test of what seeds 1 to 5 had suggested, on seeds that nothing had been seen of.
FRESH = {name: SLOW[name] for name in ("rloo", "grpo", "annealed_grpo", "annealed_no_hops", "grpo_average")}
FRESH_WEIGHTS = dict.fromkeys(FRESH, ("0.2", "0.05", "0.5")) | {"grpo": ("0.1", "0.02", "0.5")}
FRESH_SEEDS = (6, 7, 8, 9, 10)
# How fast the mixture's straight-through share fades: steps until it is a half, beside the 100 of above.
HALVES = {f"half{half}": (*SLOW["annealed"], f"method.half={half}") for half in (30, 300)}
HALVES_WEIGHTS = dict.fromkeys(HALVES, ("0.2", "0.05"))
# Why GRPO is ahead of RLOO after 60 steps: RLOO with an optimizer that forgets the scale of its gradients sooner, and GRPO's weights of
# prompts without its scale (all but the first step of the mixture).
WHY = {
    "rloo_forgets": (*METHODS["rloo"], "optimizer.betas=[0.9,0.95]"),
    "grpo_scaled": (*METHODS["annealed_grpo"], "method.half=1e-6"),
}
WHY_WEIGHTS = dict.fromkeys(WHY, ("0.2", "0.05"))
# Is a third of the rate the right one for these steps?  A tenth, and the whole.
LOWER = {name: at_rate(SLOW[name], "3e-4") for name in ("rloo", "annealed", "plain", "grpo_average", "annealed_grpo")}
HIGHER = {f"{name}_higher": at_rate(SLOW[name], "3e-3") for name in ("rloo", "annealed_grpo", "grpo_average", "plain")}
HIGHER_SEEDS = {"rloo_higher": (1, 2), "annealed_grpo_higher": (1, 2), "grpo_average_higher": (1,), "plain_higher": (1,)}
# Longer completions for longer: does a lead last?
LONG_METHODS = ("rloo", "grpo", "annealed_grpo", "annealed_no_hops", "annealed", "plain")
LONG = {name: (*SLOW[name], "max_steps=250", "max_new_tokens=64") for name in LONG_METHODS}
LONG_WEIGHTS = {name: SLOW_WEIGHTS[name][:2] for name in LONG}
LONG_SEEDS = (1, 2)
# Policy gradients for as long as 180 steps of the mixture took at first, 2.4 of theirs each, and as 350 of it without hops take now.
MATCHED = {name: (*SLOW[name], "max_steps=430") for name in ("rloo", "grpo_average")}
MATCHED["annealed_no_hops"] = (*SLOW["annealed_no_hops"], "max_steps=350")
MATCHED_WEIGHTS = {"rloo": ("0.2", "0.05", "0.5"), "annealed_no_hops": ("0.2", "0.05"), "grpo_average": ("0.2", "0.05", "0.5")}
# Another reward: the same head on the completion alone, which cannot lean on the prompt.
COMPLETION = {name: (*METHODS[name], "reward.scope=completion") for name in ("rloo", "plain", "grpo", "annealed_grpo")}
COMPLETION_WEIGHTS = {"rloo": ("0.1", "0.02"), "plain": ("0.05", "0.02"), "grpo": ("0.5", "0.1"), "annealed_grpo": ("0.1", "0.02")}
MORE_SEEDS = (4, 5)  # of the best
BEST = ("rloo", "plain", "annealed", "grpo")
BEST_OF_60 = ("rloo", "plain", "ste", "grpo", "calibrated_along")
PARTS = (
    "rates", "length", "frontier", "best_of_n", "slow", "fresh", "half", "why", "slow_rate", "completion", "long", "matched", "apart",
    "cost", "linear",
)  # fmt: skip


def rates() -> list[Cell]:
    """One rate more, at the sweep's own seed and weight of the KL; no test."""
    more = ("seed=0", "evaluation.test=false", "evaluation.validate_every=60")
    return [Cell(RECORDS, "rates", f"{name}-1e-2", (*at_rate(METHODS[name], "1e-2"), *more)) for name in EDGES]


def frontier() -> list[Cell]:
    groups = ({name: WEIGHTS[name] for name in CORE}, {name: weights for name, weights in WEIGHTS.items() if name not in CORE})
    every = ("evaluation.validate_every=10",)
    cells = [cell for weights in groups for cell in by_weight(RECORDS, "frontier", METHODS, weights, SEEDS, every)]
    return cells + by_weight(RECORDS, "frontier", METHODS, {name: WEIGHTS[name] for name in BEST_OF_60}, MORE_SEEDS, every)


def slow() -> list[Cell]:
    every, pair = ("evaluation.validate_every=30",), {name: SLOW_WEIGHTS[name][:2] for name in BEST}
    return by_weight(RECORDS, "slow", SLOW, SLOW_WEIGHTS, SEEDS, every) + by_weight(RECORDS, "slow", SLOW, pair, MORE_SEEDS, every)


def fresh() -> list[Cell]:
    return by_weight(RECORDS, "fresh", FRESH, FRESH_WEIGHTS, FRESH_SEEDS, ("evaluation.validate_every=30",))


def half() -> list[Cell]:
    return by_weight(RECORDS, "half", HALVES, HALVES_WEIGHTS, SEEDS, ("evaluation.validate_every=30",))


def why() -> list[Cell]:
    return by_weight(RECORDS, "why", WHY, WHY_WEIGHTS, SEEDS, ("evaluation.validate_every=10",))


def slow_rate() -> list[Cell]:
    every, weights = ("evaluation.validate_every=30",), {name: SLOW_WEIGHTS[name.removesuffix("_higher")][:2] for name in (*LOWER, *HIGHER)}
    cells = by_weight(RECORDS, "slow_rate", LOWER, {name: weights[name] for name in LOWER}, SEEDS[:1], every)
    for name, seeds in HIGHER_SEEDS.items():
        cells += by_weight(RECORDS, "slow_rate", HIGHER, {name: weights[name]}, seeds, every)
    return cells


def long() -> list[Cell]:
    return by_weight(RECORDS, "long", LONG, LONG_WEIGHTS, LONG_SEEDS, ("evaluation.validate_every=50",))


def matched() -> list[Cell]:
    return by_weight(RECORDS, "matched", MATCHED, MATCHED_WEIGHTS, SEEDS, ("evaluation.validate_every=30",))


def completion() -> list[Cell]:
    return by_weight(RECORDS, "completion", COMPLETION, COMPLETION_WEIGHTS, SEEDS, ("evaluation.validate_every=10",))


def length(queue: Queue) -> None:
    """Where the length goes."""
    keep_measured(MEASURED, "length", lambda: measure([*SETTING, *queue.paths]))


def cost(queue: Queue) -> None:
    """What a policy step costs."""
    keep_measured(MEASURED, "cost/all", lambda: costs([*SETTING, *queue.paths]))


def apart(queue: Queue) -> None:
    """Length and direction of the gradients of reward and KL, each by itself: at the start, and where a fresh run of RLOO ended."""
    for place in ("initial", "rloo-beta0.2-seed6"):
        where = () if place == "initial" else (f"checkpoint={queue.work / 'fresh' / place}",)
        for part in ("reward", "kl"):
            leaf, folder = f"apart/{place}/{part}", queue.work / "apart" / f"{place}-{part}"
            if leaf in read_leaves(MEASURED):
                continue
            options = (*SETTING, "kl_coef=0.1", *where)
            if queue.measure("gradients", folder, f"methods={','.join(ESTIMATORS)}", f"part={part}", *SAMPLES, *options):
                add_leaves(MEASURED, leaf, json.loads(queue.without_paths((folder / "results.json").read_text())))


def explained(queue: Queue) -> None:
    """What first-order effects explain of the reward within prompts: at the start, and where two of the slow runs ended."""
    for name in ("", "rloo-beta0.2-seed4", "rloo-beta0.05-seed4"):
        adapter = queue.work / "slow" / name / "checkpoints" / "last" / "adapter_model.safetensors" if name else None
        leaf = f"linear/{name or 'initial'}"
        if leaf not in read_leaves(MEASURED) and adapter is not None and not adapter.exists():
            print(f"{leaf} was not measured: make the run first (--parts slow, and the same --work)", flush=True)
            continue
        keep_measured(MEASURED, leaf, partial(linear.measure, [*SETTING, *queue.paths], adapter))


def best_of_n(queue: Queue) -> None:
    """The curve on the study's own test prompts."""
    if CURVE.exists():
        return
    folder = queue.work / "best_of_n"
    if queue.measure("best_of_n", folder, *queue.common):
        write_atomically(CURVE, queue.without_paths((folder / "best_of_n.json").read_text()))


def show() -> int:
    """The page, and the README's tables and figure, of the records."""
    from experiments.frontier.report import write
    from grade_lightning.reporting.output import report

    for warning in report(RECORDS, OUTPUTS / "frontier", part="frontier"):
        print(warning, file=sys.stderr)
    write(RECORDS, json.loads(CURVE.read_text())["curve"] if CURVE.exists() else [], HERE / "report")
    print(OUTPUTS / "frontier" / "report.html")
    return 0


def main() -> int:
    chosen = study_arguments(__doc__ or "", "frontier", PARTS)
    if chosen.report:
        return show()
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work)
    if "rates" in chosen.parts:
        queue.run_all(rates(), chosen.jobs)
    if "length" in chosen.parts:
        length(queue)
    if "frontier" in chosen.parts:
        queue.run_all(frontier(), chosen.jobs)
    parts = {"slow": slow, "fresh": fresh, "half": half, "why": why, "slow_rate": slow_rate, "completion": completion, "long": long,
             "matched": matched}  # fmt: skip
    for part, cells in parts.items():
        if part in chosen.parts:
            queue.run_all(cells(), chosen.jobs)
    if "cost" in chosen.parts:
        cost(queue)
    if "apart" in chosen.parts:
        apart(queue)
    if "linear" in chosen.parts:
        explained(queue)
    if "best_of_n" in chosen.parts:
        best_of_n(queue)
    return 0


if __name__ == "__main__":
    sys.exit(main())
