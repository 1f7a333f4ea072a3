"""Methods against one of them: at equal KL, and in the steps they need to a reward at a KL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.equal_kl import method_weight_seed
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.significance import few_interval
from grade_lightning.reporting.table import Table

KLS = tuple(round(0.1 * tenth, 1) for tenth in range(1, 21))
# What is compared at equal KL: of the test's results, whether its logarithm is, title, format.
QUANTITIES = (
    ("reward_mean", False, "Reward", ".3f"), ("judge_mean", False, "Judge", ".3f"), ("distinct_2", False, "Distinct-2", ".3f"),
    ("perplexity", True, "Perplexity, as a factor", ".2f"),
)  # fmt: skip
TARGETS = ((0.8, 0.3), (0.85, 0.4), (0.9, 0.5), (0.9, 0.7), (0.95, 1.0), (0.97, 1.25))  # validation reward, at most this KL

Curves = dict[str, dict[int, list[tuple[float, dict[str, float]]]]]  # by method and seed: KL, and what is compared


def curves(records: Sequence[Record], step: int | None = None) -> Curves:
    """Where the runs of each method and seed ended (test), or were after a step (validation); the smallest KL first."""
    found: Curves = defaultdict(lambda: defaultdict(list))
    for record in records:
        method, _, seed = method_weight_seed(record)
        rows = [record.results["test"]] if step is None else [row for row in record.results["validation"] if row["step"] == step]
        for row in rows:
            chosen = QUANTITIES if step is None else QUANTITIES[:1]
            values = {key: math.log(row[key]) if logarithm else float(row[key]) for key, logarithm, _, _ in chosen}
            found[method][seed].append((float(row["kl_mean"]), values))
    return {method: {seed: sorted(runs, key=lambda run: run[0]) for seed, runs in seeds.items()} for method, seeds in found.items()}


def between(runs: Sequence[tuple[float, Mapping[str, float]]], key: str, kl: float) -> float:
    """A quantity at a KL that runs enclose, linear in its root between the neighbouring ones."""
    return float(np.interp(kl**0.5, [reached**0.5 for reached, _ in runs], [values[key] for _, values in runs]))


def differences(found: Curves, method: str, reference: str) -> tuple[set[float], dict[str, list[float]]]:
    """The KLs that are compared, and of each quantity the mean difference over those that a seed's runs of both enclose, seed by seed."""
    used: set[float] = set()
    (_, compared), *_ = next(iter(found[method].values()))
    seeds: dict[str, list[float]] = {key: [] for key in compared}
    for seed in sorted(found[method].keys() & found[reference].keys()):
        pair = found[method][seed], found[reference][seed]
        common = [kl for kl in KLS if all(runs[0][0] <= kl <= runs[-1][0] for runs in pair)]
        used.update(common)
        for key, values in seeds.items() if common else ():
            values.append(float(np.mean([between(pair[0], key, kl) - between(pair[1], key, kl) for kl in common])))
    return used, seeds


def against(records: Sequence[Record], reference: str = "rloo", names: Mapping[str, str] | None = None) -> Table:
    """What each method has beyond the reference at equal KL: mean over the KLs that a seed's runs of both enclose, then over seeds.

    Args:
        records: runs named after method, weight and seed.
        reference: the method it is compared with.
        names: of methods, for readers.
    """
    found, rows = curves(records), []
    for method in sorted(found.keys() - {reference}):
        used, seeds = differences(found, method, reference)
        row: dict[str, Any] = {"method": (names or {}).get(method, method), "seeds": len(seeds["reward_mean"])}
        row["kls"] = f"{min(used):.1f} to {max(used):.1f}" if used else "none in common"
        rows.append({**row, **{key: _said(seeds[key], logarithm, form) for key, logarithm, _, form in QUANTITIES}})
    columns = [("method", "Method", ""), ("kls", "KLs, nats/token", ""), ("seeds", "Seeds", "d")]
    columns += [(key, title, "") for key, _, title, _ in QUANTITIES]
    note = (
        f"Beyond {(names or {}).get(reference, reference)} at equal KL: linear in the root of the KL between a seed's runs of neighbouring "
        "weights, mean over every tenth of a nat that runs of both enclose, then over seeds; Student's 95% interval over seeds."
    )
    return Table("Against", columns, rows, [note])


def by_steps(records: Sequence[Record], steps: Sequence[int], reference: str = "rloo", names: Mapping[str, str] | None = None) -> Table:
    """Validation rewards beyond the reference's at equal KL, after the same number of steps.

    Args:
        records: runs that were validated after these steps.
        steps: from the first policy step.
        reference: the method they are compared with.
        names: of methods, for readers.
    """
    found = {step: curves(records, step) for step in steps}
    rows = []
    for method in sorted({method for one in found.values() for method in one} - {reference}):
        row: dict[str, Any] = {"method": (names or {}).get(method, method)}
        for step, one in found.items():
            used, seeds = differences(one, method, reference) if method in one and reference in one else (set(), {"reward_mean": []})
            row[str(step)] = f"{_said(seeds['reward_mean'], False, '.3f')} at {min(used):.1f} to {max(used):.1f}" if used else ""
        rows.append(row)
    columns = [("method", "Method", ""), *((str(step), f"after {step} steps", "") for step in steps)]
    return Table(
        "By steps", columns, rows, ["The same on 256 validation prompts while training: difference at the KLs that runs enclose then."]
    )


def _said(values: Sequence[float], logarithm: bool, form: str) -> str:
    """Mean over seeds with its interval, as a factor where logarithms were compared."""
    if not values:
        return ""
    ends = [float(np.mean(values))]
    if len(values) > 1:
        interval = few_interval(list(values))
        ends += [interval.low, interval.high]
    mean, *rest = [f"{math.exp(end):{form}}" if logarithm else f"{end:+{form}}" for end in ends]
    return mean + (f" [{rest[0]}, {rest[1]}]" if rest else "")


def targets(parts: Mapping[str, Sequence[Record]], methods: Sequence[str], names: Mapping[str, str]) -> Table:
    """Steps until the validation reward is at least so high at a KL of at most so much, in each method's best setting.

    Best is the setting (part and weight) in which most seeds get there, then that with the fewest steps.

    Args:
        parts: runs by what their settings are called.
        methods: in the order shown.
        names: of methods, for readers.
    """
    settings: dict[tuple[str, str, str], list[list[dict[str, float]]]] = defaultdict(list)
    for part, records in parts.items():
        for record in records:
            method, beta, _ = method_weight_seed(record)
            settings[method, part, beta].append(record.results["validation"])
    rows = []
    for reward, kl in TARGETS:
        for method in methods:
            tried = []
            for (own, part, beta), runs in settings.items():
                if own == method and len(runs) > 2:
                    reached = [_first(rows, reward, kl) for rows in runs]
                    known = [step for step in reached if step is not None]
                    if known:
                        tried.append(
                            (-len(known) / len(runs), float(np.mean(known)), f"{part}, beta {beta}", f"{len(known)} of {len(runs)}")
                        )
            _, steps, setting, seeds = min(tried, default=(0.0, None, "", "none"))
            rows.append({
                "target": f"{reward:g} at {kl:g}", "method": names.get(method, method), "setting": setting, "seeds": seeds, "steps": steps,
            })  # fmt: skip
    columns = [
        ("target", "Reward, at a KL of at most", ""), ("method", "Method", ""), ("setting", "Best setting", ""),
        ("seeds", "Seeds that get there", ""), ("steps", "Steps, mean of these", ".0f"),
    ]  # fmt: skip
    return Table("Targets", columns, rows, ["First validation (256 prompts) inside; methods with at least three seeds of a setting."])


def _first(rows: Sequence[Mapping[str, float]], reward: float, kl: float) -> float | None:
    return next((float(row["step"]) for row in rows if row["reward_mean"] >= reward and row["kl_mean"] <= kl), None)
