"""What the README shows of the records: ends, reward at equal KL, effective weights of the KL, speed, and the figure."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.against import against, by_cost, by_steps, comparison, forms, targets
from experiments.curves import curves
from experiments.weights import ends, method_weight_seed
from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import read_leaves
from grade_lightning.records.study_table import Record, read_table
from grade_lightning.reporting.equal_kl import band, difference
from grade_lightning.reporting.palette import estimator_title, looks
from grade_lightning.reporting.significance import few_interval
from grade_lightning.reporting.table import Table
from grade_lightning.study.output import from_json

STUDIES = Path(__file__).parents[1]
# Runs at beta 0.1 of the same setting in the records of other studies: study, part, what their names begin with.
ELSEWHERE = {
    "rloo": ("imdb_small", "controlled", "rloo-seed"), "ppo": ("imdb_small", "controlled", "ppo-seed"),
    "reinforce": ("imdb_small", "controlled", "reinforce-seed"), "grade": ("imdb_small", "controlled", "grade-seed"),
    "plain": ("gradient_quality", "curves", "decoupled_st-seed"), "ste": ("gradient_quality", "curves", "grade_ste-tau2-seed"),
}  # fmt: skip
METHOD = {
    "plain": "decoupled_st",
    "ste": "grade_ste",
    "calibrated": "decoupled_st",
    "annealed_grpo": "annealed",
    "annealed_no_hops": "annealed",
    "annealed_spread": "annealed",
}  # of the package, by what the study calls it
NAMES = {
    "rloo": "RLOO", "plain": "plain straight-through", "ste": "GRADE-STE, tau 2", "calibrated": "calibrated straight-through",
    "annealed": "straight-through to RLOO", "annealed_grpo": "straight-through to GRPO", "annealed_no_hops": "to GRPO, no hops",
    "annealed_spread": "to GRPO, prompts by spread",
    "grpo_average": "GRPO, KL by the average", "grpo_squares": "GRPO, KL by squares", "rloo_180": "RLOO, 180 steps",
    "grpo_average_180": "GRPO, 180 steps", "ppo_average": "PPO, KL by the average",
    "half30": "to RLOO, half 30", "half300": "to RLOO, half 300", "rloo_lower": "RLOO, rate 3e-4", "annealed_lower": "to RLOO, rate 3e-4",
    "rloo_forgets": "RLOO, beta2 0.95", "grpo_scaled": "GRPO at RLOO's scale", "hybrid": "hybrid", "grpo": "GRPO", "ppo": "PPO",
    "reinforce": "REINFORCE", "grade": "GRADE", "rloo_cv": "RLOO, control variate", "entrgi": "EntRGi", "grad2reward": "Grad2Reward",
}  # fmt: skip
COMPARED = ("rloo", "grpo", "plain", "annealed", "annealed_grpo", "ste")
REFERENCES = ("rloo", "grpo", "grpo_average")
SMOOTHED, FINAL = 10, 6  # training rewards are averaged over so many steps while they rise, and over a sixth of all steps in the end
BEST = "annealed_grpo"
COSTS = ((30, 60), (60, 120), (60, 150), (90, 180), (180, 430))  # a mixture's steps beside those of a policy gradient at about its cost
AGAINST = ("grpo", "grpo_average", "plain", "ste", "annealed", "annealed_grpo", "annealed_no_hops")
PAIRS = (
    *((m, r) for r in REFERENCES for m in AGAINST if m != r),
    ("annealed_grpo", "annealed"), ("annealed_no_hops", "annealed_grpo"),
)  # fmt: skip
# Parts beside the frontier itself, and the steps after which they are compared.
THIRTIES = (30, 60, 90, 120, 150, 180)
STEPS = {
    "slow": THIRTIES, "fresh": THIRTIES, "fresh_two": THIRTIES, "ten_seeds": THIRTIES, "half": THIRTIES, "slow_rate": THIRTIES,
    "larger": THIRTIES, "matched": THIRTIES, "completion": (10, 20, 40, 60), "why": (20, 40, 60), "long": (50, 100, 150, 200, 250),
}  # fmt: skip
ADDED = "0.5"  # the weight of the fresh seeds that was added to the two foreseen
LARGER_RATE = 1e-3  # of the larger base where a run is not named after its rate
RATES = {"frontier": "3e-3, 60 steps", "slow": "1e-3, 180 steps"}  # of the methods that are compared most


def everything(records: Path) -> list[Record]:
    """The study's runs and those at beta 0.1 of other studies, under names of this one's form."""
    found = read_table(records, part="frontier")
    have = {record.name for record in found}
    for method, (study, part, begins) in ELSEWHERE.items():
        for record in read_table(STUDIES / study / "runs.parquet", part=part):
            name = f"{method}-beta0.1-seed{record.name.removeprefix(begins)}"
            if record.name.startswith(begins) and name not in have:
                found.append(dataclasses.replace(record, name=name))
    return found


def parts(records: Path) -> dict[str, list[Record]]:
    """Runs by part.

    Beside the mixture's other halves stand the mixture and RLOO, beside what may explain GRPO it and RLOO, beside the fresh seeds those of
    their two foreseen weights, beside policy gradients of 430 steps the mixture's 180 and their own; the ten seeds are those of slow and
    the fresh ones; runs of the larger base come from their own file.
    """
    own = [part for part in STEPS if part not in {"larger", "ten_seeds", "fresh_two"}]
    found = {"frontier": everything(records), **{part: read_table(records, part=part) for part in own}}
    tried = {method_weight_seed(record)[1:] for record in found["half"]}
    same = [record for record in found["slow"] if method_weight_seed(record)[0] in {"rloo", "annealed"}]
    found["half"] += [record for record in same if method_weight_seed(record)[1:] in tried]
    seeds = {method_weight_seed(record)[2] for record in found["why"]}
    whole = [record for record in found["frontier"] if method_weight_seed(record)[0] in {"rloo", "grpo"}]
    found["why"] += [record for record in whole if method_weight_seed(record)[2] in seeds]
    found["matched"] += _shorter(found["slow"], {method_weight_seed(record) for record in found["matched"]})
    both = [record for record in found["slow"] if method_weight_seed(record)[0] in (*REFERENCES, BEST)]
    two = [record for record in found["fresh"] if method_weight_seed(record)[1] != ADDED]
    return found | {"larger": _larger(records.with_name("larger.parquet")), "ten_seeds": [*both, *found["fresh"]], "fresh_two": two}


def _shorter(slow: Sequence[Record], longer: set[tuple[str, str, int]]) -> list[Record]:
    """The mixture's runs of the seeds that policy gradients ran longer, and the 180 steps of those, under names of their own."""
    found, seeds = [], {seed for _, _, seed in longer}
    for record in slow:
        method, beta, seed = method_weight_seed(record)
        if method == BEST and seed in seeds:
            found.append(record)
        elif (method, beta, seed) in longer:
            found.append(dataclasses.replace(record, name=f"{method}_180-beta{beta}-seed{seed}"))
    return found


def _larger(records: Path) -> list[Record]:
    """Runs of the larger base: at the small base's rate, and those whose sweep said a lower one under a name of their own."""
    slow, found = read_table(records, part="slow"), read_table(records, part="same_rate")
    for record in slow:
        method, _, _ = method_weight_seed(record)
        lower = record.config["optimizer"]["lr"] < LARGER_RATE
        found.append(dataclasses.replace(record, name=f"{method}_lower{record.name.removeprefix(method)}") if lower else record)
    return found


def _by_method(records: Sequence[Record]) -> dict[str, dict[int, list[tuple[float, float, float]]]]:
    """(beta, test KL, test reward) by method and seed, the smallest beta first."""
    found: dict[str, dict[int, list[tuple[float, float, float]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        method, beta, seed = method_weight_seed(record)
        test = record.results["test"]
        found[method][seed].append((float(beta), float(test["kl_mean"]), float(test["reward_mean"])))
    return {method: {seed: sorted(rows) for seed, rows in seeds.items()} for method, seeds in found.items()}


def equivalent(rows: Sequence[tuple[float, float, float]], kl: float) -> float:
    """The beta at which runs would have had a KL, linear in logarithms between neighbours; nan outside of what was run."""
    ordered = sorted((math.log(reached), math.log(beta)) for beta, reached, _ in rows)
    kls, betas = (np.asarray(column) for column in zip(*ordered, strict=True))
    if not kls[0] <= math.log(kl) <= kls[-1]:
        return math.nan
    return math.exp(float(np.interp(math.log(kl), kls, betas)))


def effective(records: Sequence[Record], methods: Sequence[str], reference: str = "rloo") -> Table:
    """For each weight of a straight-through run, RLOO's weight with the same KL, as a multiple."""
    found, shown = _by_method(records), []
    for method in methods:
        for beta in sorted({row[0] for rows in found.get(method, {}).values() for row in rows}):
            factors = []
            for seed, rows in found[method].items():
                kl = next((reached for own, reached, _ in rows if own == beta), None)
                if kl is not None and len(found[reference].get(seed, ())) > 1:
                    factors.append(equivalent(found[reference][seed], kl) / beta)
            known = [factor for factor in factors if math.isfinite(factor)]
            said = few_interval(known) if len(known) > 1 else None
            shown.append({
                "method": NAMES.get(method, method), "beta": f"{beta:g}", "seeds": len(known),
                "factor": "" if not known else f"{np.mean(known):.1f}" + ("" if said is None else f" [{said.low:.1f}, {said.high:.1f}]"),
            })  # fmt: skip
    columns = [("method", "Method", ""), ("beta", "beta", ""), ("seeds", "Seeds", "d"), ("factor", "RLOO's beta of equal KL / beta", "")]
    return Table("Effective weights", columns, shown, ["Linear in logarithms between RLOO's runs of a seed; Student's 95% interval."])


def speed(records: Sequence[Record], share: float = 0.9) -> Table:
    """Policy steps until a share of the final rise of the training reward, a mean over :data:`SMOOTHED` steps."""
    groups: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
    for record in records:
        method, beta, _ = method_weight_seed(record)
        groups[method, beta].append((steps_to(share, record), float(record.results["test"]["kl_mean"])))
    shown = []
    for (method, beta), found in sorted(groups.items(), key=lambda item: (item[0][0], -float(item[0][1]))):
        steps, kls = zip(*found, strict=True)
        row = {"method": NAMES.get(method, method), "beta": beta, "kl": float(np.mean(kls)), "median": float(np.median(steps))}
        shown.append({**row, "each": " ".join(f"{s:.0f}" for s in steps)})
    columns = [
        ("method", "Method", ""), ("beta", "beta", ""), ("kl", "KL at the end", ".2f"), ("each", "Steps, by seed", ""),
        ("median", "Median", ".0f"),
    ]  # fmt: skip
    note = (
        f"The first step around which the mean training reward of {SMOOTHED} steps has {share:.0%} of its rise, from the initial policy's "
        f"validation to the mean of the last sixth of the steps, at whatever KL it is by then; 16 completions a step."
    )
    return Table("Speed", columns, shown, [note])


def steps_to(share: float, record: Record) -> float:
    """See :func:`speed`; nan where no such mean is so high."""
    rewards = np.asarray([reward for reward in record.metrics["train/reward"] if reward is not None], dtype=float)
    smooth = np.convolve(rewards, np.full(SMOOTHED, 1 / SMOOTHED), mode="valid")
    start = record.results["validation"][0]["reward_mean"]
    reached = np.flatnonzero(smooth >= start + share * (rewards[-(len(rewards) // FINAL) :].mean() - start))
    return float(reached[0] + SMOOTHED // 2 + 1) if len(reached) else math.nan


def _lengths(axes: Axes) -> None:
    """Length against cosine of every estimator at the three checkpoints of gradient_quality."""
    stored = read_leaves(STUDIES / "gradient_quality" / "gradients.parquet")
    points: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for place in ("initial", "grade_ste", "rloo"):
        for name, entry in from_json(stored[f"checkpoints/{place}"])["estimators"].items():
            points[name].append((entry["numbers"]["cosine"], entry["numbers"]["length_ratio"]))
    shown = {name: found for name, found in points.items() if len(found) == 3 and "rollouts" not in name and "max_hops" not in name}
    for (name, found), look in zip(shown.items(), looks([name.split(":")[0] for name in shown]), strict=True):
        axes.plot(*zip(*found, strict=True), color=look.colour, ls="", marker=look.marker, label=estimator_title(name))
    axes.axhline(1, color="0.8", lw=0.8, zorder=0)
    axes.set(xlabel="cosine to the policy gradient", ylabel="length / RLOO's", yscale="log", title="Reward gradients: length and direction")
    axes.legend(frameon=False, fontsize=7)


def _frontiers(axes: Axes, records: Sequence[Record], curve: Sequence[dict[str, Any]], title: str) -> None:
    """Test reward against test KL: every run a point, each method's curve with its band over seeds."""
    found = curves(records)
    shown = {m: seeds for m, seeds in found.methods.items() if m in COMPARED}
    for (method, seeds), look in zip(shown.items(), looks([METHOD.get(m, m) for m in shown]), strict=True):
        every = [(run.kl, run.values["reward_mean"]) for runs in seeds.values() for run in runs]
        axes.plot(*zip(*every, strict=True), color=look.colour, ls="", marker=look.marker, markersize=3, alpha=0.6)
        grid = np.geomspace(min(kl for kl, _ in every), max(kl for kl, _ in every), 60)
        low, middle, high = band(found, method, grid)
        axes.plot(grid, middle, **look.line(label=f"{NAMES[method]}, {len(seeds)} seeds"))
        axes.fill_between(grid, low, high, color=look.colour, alpha=0.15, lw=0)
    if curve:
        axes.plot([row["kl_mean"] for row in curve], [row["reward_mean"] for row in curve], color="0.5", ls=":", label="best of n, n to 64")
    axes.set(xlabel="KL to the reference, nats per token", ylabel="test reward", title=title, xlim=(0, None))
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _leads(axes: Axes, records: Sequence[Record], steps: Sequence[int]) -> None:
    """Validation reward beyond RLOO's at equal KL, by steps, with Student's interval over seeds."""
    found = {step: curves(records, step) for step in steps}
    methods = ("plain", "grpo", "annealed", "annealed_grpo")
    for shift, (method, look) in enumerate(zip(methods, looks([METHOD.get(m, m) for m in methods]), strict=True)):
        compared = {step: difference(one, method, "rloo") for step, one in found.items()}
        known = [(step + 3 * shift, *one.values["reward_mean"]) for step, one in compared.items() if one.values]
        said = [(place, interval) for place, _, interval in known if interval is not None]
        if said:
            ends = [[i.mean - i.low for _, i in said], [i.high - i.mean for _, i in said]]
            places, means = [place for place, _ in said], [i.mean for _, i in said]
            axes.errorbar(places, means, ends, color=look.colour, ls=look.dash, marker=look.marker, ms=5, capsize=3, label=NAMES[method])
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    title = f"The lead while training, rate {RATES['slow']}"
    axes.set(xlabel="policy steps", ylabel="reward beyond RLOO's at equal KL", title=title)
    axes.legend(frameon=False, fontsize=7)


def write(records: Path, curve: Sequence[dict[str, Any]], out: Path) -> None:
    """Tables and the figure."""
    found = parts(records)
    made = {
        "ends": ends(found["frontier"]).markdown(), "effective": effective(found["frontier"], ("plain", "ste")).markdown(),
        "against": "\n\n".join(against(found["frontier"], r, NAMES).markdown() for r in REFERENCES),
        "by_steps": "\n\n".join(by_steps(found["frontier"], (20, 40, 60), r, NAMES).markdown() for r in REFERENCES),
        "speed": speed(found["frontier"]).markdown(),
        "targets": "\n\n".join(f"Rate {RATES[part]}\n\n{targets(_often(found[part]), COMPARED, NAMES).markdown()}" for part in RATES),
        "forms": "\n\n".join(f"Rate {RATES[part]}\n\n{forms(found[part], PAIRS, NAMES).markdown()}" for part in RATES),
    }  # fmt: skip
    for part, steps in STEPS.items():
        if found[part]:
            made[part] = "\n\n".join(table.markdown() for table in _tables(found[part], steps))
    for name, text in made.items():
        write_atomically(out / f"{name}.md", text)
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _lengths(left)
    _frontiers(middle, [*found["slow"], *found["fresh"]], curve, f"Reward against KL, rate {RATES['slow']}")
    _leads(right, found["slow"], STEPS["slow"])
    write_atomically(out / "frontier.png", lambda partial: figure.savefig(partial, format="png", dpi=110))


def _tables(records: Sequence[Record], steps: Sequence[int]) -> list[Table]:
    """What is shown of every part: ends, differences to RLOO and, where it was run, to GRPO, and the mixture into it KL by KL."""
    have = {method_weight_seed(record)[0] for record in records}
    references = [method for method in REFERENCES if method in have]
    tables = comparison(records, steps, references, PAIRS, NAMES)
    if BEST in have and steps == THIRTIES:
        tables.append(by_cost(records, BEST, references, COSTS, NAMES))
    return [*tables, speed(records)]


def _often(records: Sequence[Record]) -> list[Record]:
    """Runs that were validated as often as most of theirs."""
    counts = [len(record.results["validation"]) for record in records]
    return [record for record, count in zip(records, counts, strict=True) if count == max(counts)]
