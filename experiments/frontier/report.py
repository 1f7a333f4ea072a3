"""What the README shows of the records: ends, reward at equal KL, effective weights of the KL, speed, and the figure."""

from __future__ import annotations

import dataclasses
import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.against import against, by_band, by_cost, by_steps, comparison, forms, targets
from experiments.frontier.figures import draw, draw_weights
from experiments.frontier.names import COMPARED, GRID, NAMES, NINE, RATES
from experiments.weights import ends, grid, method_weight_seed, suffixed
from grade_lightning.records.files import write_atomically
from grade_lightning.records.study_table import Record, read_table
from grade_lightning.reporting.significance import few_interval
from grade_lightning.reporting.table import Table

STUDIES = Path(__file__).parents[1]
# Runs at beta 0.1 of the same setting in the records of other studies: study, part, what their names begin with.
ELSEWHERE = {
    "rloo": ("imdb_small", "controlled", "rloo-seed"), "ppo": ("imdb_small", "controlled", "ppo-seed"),
    "ppo_average": ("imdb_small", "averaged", "ppo-seed"),
    "reinforce": ("imdb_small", "controlled", "reinforce-seed"), "grade": ("imdb_small", "controlled", "grade-seed"),
    "plain": ("gradient_quality", "curves", "decoupled_st-seed"), "ste": ("gradient_quality", "curves", "grade_ste-tau2-seed"),
}  # fmt: skip
REFERENCES = ("rloo", "grpo", "grpo_average")
SMOOTHED, FINAL = 10, 6  # training rewards are averaged over so many steps while they rise, and over a sixth of all steps in the end
BEST, NO_HOPS, LONGER = "annealed_grpo", "annealed_no_hops", "_350"
# A mixture's steps beside those of a policy gradient at about its cost: 1.93 of its steps, without hops 1.24.
COSTS = {
    BEST: ((30, 60), (60, 120), (90, 180), (180, 330), (180, 430)),
    NO_HOPS: ((30, 60), (60, 90), (90, 120), (120, 150), (150, 180), (180, 210), (180, 240), (180, 430)),
    f"{NO_HOPS}{LONGER}": ((60, 90), (120, 150), (180, 240), (240, 300), (300, 360), (350, 430)),
}  # fmt: skip
AGAINST = ("grpo", "grpo_average", "plain", "ste", "annealed", "annealed_grpo", "annealed_no_hops")
PAIRS = (
    *((m, r) for r in REFERENCES for m in AGAINST if m != r),
    ("annealed_grpo", "annealed"), ("annealed_no_hops", "annealed_grpo"),
)  # fmt: skip
# Of the whole grid, band by band.
GRID_PAIRS = (
    *((m, "rloo") for m in NINE if m != "rloo"),
    ("ste", "ppo_average"),
    ("ste", "grade"),
    ("ppo_average", "ppo"),
    ("calibrated_along", "plain"),
    ("calibrated_along_layer", "calibrated_along"),
)
# Parts beside the frontier itself, and the steps after which they are compared.
THIRTIES = (30, 60, 90, 120, 150, 180)
STEPS = {
    "slow": THIRTIES, "fresh": THIRTIES, "fresh_two": THIRTIES, "ten_seeds": THIRTIES, "half": THIRTIES, "slow_rate": THIRTIES,
    "larger": THIRTIES, "matched": THIRTIES, "completion": (10, 20, 40, 60), "why": (20, 40, 60), "long": (50, 100, 150, 200, 250),
}  # fmt: skip
FORMED = {part: f"Rate {rate}" for part, rate in RATES.items()} | {"ten_seeds": "Rate 1e-3, 180 steps, all seeds"}
ADDED = "0.5"  # the weight of the fresh seeds that was added to the two foreseen
LARGER_RATE = 1e-3  # of the larger base where a run is not named after its rate


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
    their two foreseen weights, beside policy gradients of 430 steps the mixtures' 180 and their own, beside other rates runs of the usual
    one; the ten seeds are those of slow and the fresh ones; runs of the larger base come from their own file.
    """
    own = [part for part in STEPS if part not in {"larger", "ten_seeds", "fresh_two"}]
    found = {"frontier": everything(records), **{part: read_table(records, part=part) for part in own}}
    tried = {method_weight_seed(record)[1:] for record in found["half"]}
    same = [record for record in found["slow"] if method_weight_seed(record)[0] in {"rloo", "annealed"}]
    found["half"] += [record for record in same if method_weight_seed(record)[1:] in tried]
    seeds = {method_weight_seed(record)[2] for record in found["why"]}
    whole = [record for record in found["frontier"] if method_weight_seed(record)[0] in {"rloo", "grpo"}]
    found["why"] += [record for record in whole if method_weight_seed(record)[2] in seeds]
    found["matched"] = _matched(found["slow"], found["matched"])
    found["slow_rate"] = _rates(found["slow"], found["slow_rate"])
    both = [record for record in found["slow"] if method_weight_seed(record)[0] in (*REFERENCES, BEST, NO_HOPS)]
    two = [record for record in found["fresh"] if method_weight_seed(record)[1] != ADDED]
    return found | {"larger": _larger(records.with_name("larger.parquet")), "ten_seeds": [*both, *found["fresh"]], "fresh_two": two}


def _matched(slow: Sequence[Record], long: Sequence[Record]) -> list[Record]:
    """Longer runs, mixtures' under a name of their own; the mixtures' runs of 180 steps and the same seeds, and the 180 steps of policy
    gradients under names of their own."""
    longer = {method_weight_seed(record) for record in long}
    found, seeds = [], {seed for _, _, seed in longer}
    for record in long:
        found.append(suffixed(record, LONGER) if method_weight_seed(record)[0] in COSTS else record)
    for record in slow:
        method, beta, seed = method_weight_seed(record)
        if method in COSTS and seed in seeds:
            found.append(record)
        elif (method, beta, seed) in longer:
            found.append(suffixed(record, "_180"))
    return found


def _rates(usual: Sequence[Record], others: Sequence[Record]) -> list[Record]:
    """Runs at other rates under names of their own, and those of the same methods, weights and seeds at the usual one."""
    found, tried = [], set()
    for record in others:
        method, beta, seed = method_weight_seed(record)
        tried.add((method.removesuffix("_higher"), beta, seed))
        found.append(record if method.endswith("_higher") else suffixed(record, "_lower"))
    return found + [record for record in usual if method_weight_seed(record) in tried]


def _larger(records: Path) -> list[Record]:
    """Runs of the larger base: at the small base's rate, and those whose sweep said a lower one under a name of their own."""
    slow, found = read_table(records, part="slow"), read_table(records, part="same_rate")
    return found + [suffixed(record, "_lower") if record.config["optimizer"]["lr"] < LARGER_RATE else record for record in slow]


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


def effective(records: Sequence[Record], reference: str = "rloo") -> Table:
    """For each weight of each method, the reference's weight with the same KL, as a multiple."""
    found, shown = _by_method(records), []
    for method in sorted(found.keys() - {reference}):
        for beta in sorted({row[0] for rows in found[method].values() for row in rows}):
            factors = []
            for seed, rows in found[method].items():
                kl = next((reached for own, reached, _ in rows if own == beta), None)
                if kl is not None and len(found[reference].get(seed, ())) > 1:
                    factors.append(equivalent(found[reference][seed], kl) / beta)
            known = np.log([factor for factor in factors if math.isfinite(factor)])
            said = few_interval(known) if len(known) > 2 else None
            shown.append({
                "method": NAMES.get(method, method), "beta": f"{beta:g}", "seeds": len(known), "factor": "" if not len(known) else
                f"{math.exp(known.mean()):.2g}" + ("" if said is None else f" [{math.exp(said.low):.2g}, {math.exp(said.high):.2g}]"),
            })  # fmt: skip
    columns = [("method", "Method", ""), ("beta", "beta", ""), ("seeds", "Seeds", "d"), ("factor", "RLOO's beta of equal KL / beta", "")]
    note = (
        "Linear in logarithms between RLOO's runs of a seed, of seeds whose KL lies between two of them; geometric mean, Student's 95% "
        "interval of the logarithms where there are three."
    )
    return Table("Effective weights", columns, shown, [note])


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


def write(records: Path, curve: Sequence[dict[str, Any]], out: Path) -> None:
    """Tables and the figure."""
    found = parts(records)
    made = {
        "ends": ends(found["frontier"]).markdown(),
        "grid": grid(found["frontier"], sorted(GRID, key=float, reverse=True), {method: NAMES[method] for method in NINE}).markdown(),
        "bands": by_band(found["frontier"], GRID_PAIRS, NAMES).markdown(),
        "effective": effective(found["frontier"]).markdown(),
        "against": "\n\n".join(against(found["frontier"], r, NAMES).markdown() for r in REFERENCES),
        "by_steps": "\n\n".join(by_steps(found["frontier"], (20, 40, 60), r, NAMES).markdown() for r in REFERENCES),
        "speed": speed(found["frontier"]).markdown(),
        "targets": "\n\n".join(f"Rate {RATES[part]}\n\n{targets(_often(found[part]), COMPARED, NAMES).markdown()}" for part in RATES),
        "forms": "\n\n".join(f"{title}\n\n{forms(found[part], PAIRS, NAMES).markdown()}" for part, title in FORMED.items()),
    }  # fmt: skip
    for part, steps in STEPS.items():
        if found[part]:
            made[part] = "\n\n".join(table.markdown() for table in _tables(found[part], steps))
    for name, text in made.items():
        write_atomically(out / f"{name}.md", text)
    draw(found, curve, STEPS["slow"], out / "frontier.png")
    draw_weights(found["frontier"], out / "weights.png")


def _tables(records: Sequence[Record], steps: Sequence[int]) -> list[Table]:
    """What is shown of every part: ends, differences to RLOO and, where it was run, to GRPO, KL by KL, and at equal cost."""
    have = {method_weight_seed(record)[0] for record in records}
    references = [method for method in REFERENCES if method in have]
    tables = comparison(records, steps, references, PAIRS, NAMES)
    tables += [
        by_cost(records, mixture, references, costs, NAMES) for mixture, costs in COSTS.items() if mixture in have and steps == THIRTIES
    ]
    return [*tables, speed(records)]


def _often(records: Sequence[Record]) -> list[Record]:
    """Runs that were validated as often as most of theirs."""
    counts = [len(record.results["validation"]) for record in records]
    return [record for record, count in zip(records, counts, strict=True) if count == max(counts)]
