"""What the README shows of the records: reward at equal KL, and how each run ended."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from experiments.equal_kl import Point, compare, method_weight_seed, points
from grade_lightning.records.files import write_atomically
from grade_lightning.records.study_table import Record, read_table
from grade_lightning.reporting.table import Table

KLS = (0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8)
COMPARED = {"cross": ("grade_ste", "rloo"), "vader": ("residual", "rloo"), "preferences": ("grade_ste", "rloo")}
ENDS = (
    ("reward_mean", "Test reward", ".3f"), ("kl_mean", "KL, nats/token", ".2f"), ("judge_mean", "Judge", ".3f"),
    ("perplexity", "Perplexity under reference", ".0f"), ("distinct_2", "Distinct-2", ".3f"),
    ("repeated_4_mean", "Repeated 4-grams", ".3f"),
)  # fmt: skip


def ends(records: list[Record]) -> Table:
    """Means over seeds of each method and weight; the initial policy first."""
    groups: dict[tuple[str, str], list[Record]] = defaultdict(list)
    for record in records:
        method, beta, _ = method_weight_seed(record)
        groups[method, beta].append(record)

    def row(name: str, beta: str, tests: list[dict[str, Any]]) -> dict[str, Any]:
        each = " ".join(f"{test['reward_mean']:.3f}" for test in tests)
        return {"method": name, "beta": beta, "seeds": each, **{key: float(np.mean([t[key] for t in tests])) for key, _, _ in ENDS}}

    rows = [{**row("initial policy", "", [records[0].results["initial"]]), "seeds": ""}]
    rows += [row(*key, [record.results["test"] for record in group]) for key, group in sorted(groups.items())]
    columns = [("method", "Method", ""), ("beta", "beta", ""), ("seeds", "Test reward, by seed", ""), *ENDS]
    return Table("Ends", columns, rows, ["Means over seeds of the last weights on the same 500 test prompts."])


def at_equal_kl(records: list[Record], first: str, second: str) -> Table:
    """Reward of two methods at the same KL."""
    runs: dict[str, dict[int, list[Record]]] = {first: defaultdict(list), second: defaultdict(list)}
    for record in records:
        method, _, seed = method_weight_seed(record)
        if method in runs:
            runs[method][seed].append(record)
    known: list[dict[int, list[Point]]] = [{seed: points(listed) for seed, listed in runs[name].items()} for name in (first, second)]
    columns = [
        ("kl", "KL, nats/token", ".2f"), ("seeds", "Seeds", "d"), ("first", first, ".3f"), ("second", second, ".3f"),
        ("over_seeds", "Difference, over seeds", ""), ("over_prompts", "over prompts", ""),
    ]  # fmt: skip
    notes = [
        "Rewards between runs of neighbouring weights of the KL by linear interpolation, prompt by prompt; the initial policy stands at 0. "
        "95% intervals: Student's over seeds, bootstrap over the 500 prompts (the mean over seeds of each).",
    ]
    return Table("At equal KL", columns, compare(known[0], known[1], KLS), notes)


def write(records: Path, out: Path) -> None:
    """Tables of every part that has runs."""
    for part, (first, second) in COMPARED.items():
        found = read_table(records, part=part)
        if not found:
            continue
        text = ends(found).markdown() + "\n" + at_equal_kl(found, first, second).markdown()
        write_atomically(out / f"{part}.md", text)
