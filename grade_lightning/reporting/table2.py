"""Which differences between methods are real: the paper's Table 2, and tests of the same question that hold; Appendix B.2."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
from scipy.stats import ttest_ind_from_stats

from grade_lightning.reporting.pairing import Prompt
from grade_lightning.reporting.published import TABLE1, TABLE2
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.significance import holm, paired_permutation, pooled_t, welch, windowed_variance
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.table1 import mean, number
from grade_lightning.reporting.variants import Variant

MANY_PAIRS = 60  # above, permutation tests use fewer resamples
LAST = 0.2  # share of the training steps that the paper's t-tests use


def _last_rewards(run: Run) -> list[float]:
    """Training rewards of the last 20% of the steps."""
    column = run.column("train/reward")
    return [reward for reward in column[len(column) - round(LAST * len(column)) :].tolist() if np.isfinite(reward)]


def _paper_tests(first: Variant, second: Variant) -> list[tuple[float, float]]:
    """t and p of each seed that both have: one run against one run, as published."""
    others = {run.seed: run for run in second.runs}
    pairs = [(run, others[run.seed]) for run in first.runs if run.seed in others]
    found = [pooled_t(_last_rewards(a), _last_rewards(b)) for a, b in pairs]
    return [test for test in found if test is not None]


def _by_prompt(variant: Variant) -> dict[Prompt, float]:
    """Test reward of each prompt, averaged over the seeds; only prompts that every seed has."""
    tests = [run.per_prompt("test") for run in variant.tested]
    common = set.intersection(*map(set, tests)) if tests else set()
    return {key: float(np.mean([test[key] for test in tests])) for key in common}


def _pair(first: Variant, second: Variant, resamples: int) -> dict[str, Any]:
    row: dict[str, Any] = {"first": first.label, "second": second.label}
    pooled = _paper_tests(first, second)
    if pooled:
        row["paper_t"], row["paper_significant"] = mean([t for t, _ in pooled]), f"{sum(p < 0.05 for _, p in pooled)} of {len(pooled)}"
    if first.like_paper and second.like_paper:
        row["published_t"] = TABLE2.get((first.method, second.method)) or _minus(TABLE2.get((second.method, first.method)))
    a, b = _by_prompt(first), _by_prompt(second)
    common = sorted(a.keys() & b.keys())
    prompts = paired_permutation([a[key] for key in common], [b[key] for key in common], resamples=resamples)
    if prompts is not None:
        row.update(difference=prompts.difference, prompt_p=prompts.p, prompt_effect=prompts.effect, prompts=prompts.n)
    tests = [[number(run.results["test"], "reward_mean") for run in variant.tested] for variant in (first, second)]
    seeds = welch(*tests)
    if all(tests):
        row.setdefault("difference", float(np.mean(tests[0]) - np.mean(tests[1])))
    if seeds is not None:
        row.update(seed_p=seeds.p, seed_effect=seeds.effect, seeds=seeds.n)
    if prompts is None and seeds is None and all(tests):
        row["unpaired_p"] = _unpaired(first.tested[0], second.tested[0])
    return row


def _unpaired(first: Run, second: Run) -> float | None:
    """p of Welch's test from means and spreads alone, where neither prompts nor seeds can be paired; None where they are unknown."""
    sides = [run.results["test"] for run in (first, second)]
    if any(side["reward_std"] is None or not side["n"] or side["n"] < 2 for side in sides):
        return None
    numbers = [
        number for side in sides for number in (side["reward_mean"], side["reward_std"] * (side["n"] / (side["n"] - 1)) ** 0.5, side["n"])
    ]
    return float(ttest_ind_from_stats(*numbers, equal_var=False).pvalue)


def _minus(value: float | None) -> float | None:
    return None if value is None else -value


def table2(variants: list[Variant]) -> Table:
    """Every pair: the paper's test for comparison, then over paired prompts and over seeds, Holm-adjusted within each column."""
    pairs = list(combinations(variants, 2))
    rows = [_pair(first, second, resamples=9999 if len(pairs) <= MANY_PAIRS else 999) for first, second in pairs]
    for name in ("prompt", "seed"):
        tested = [row for row in rows if f"{name}_p" in row]
        for row, p in zip(tested, holm([row[f"{name}_p"] for row in tested]), strict=True):
            row[f"{name}_holm"] = p
    columns = [
        ("first", "First", ""), ("second", "Second", ""), ("difference", "Test reward, first - second", "+.3f"),
        ("seed_holm", "Seeds: p (Holm)", "p"), ("seed_effect", "Seeds: Hedges' g", "+.2f"),
        ("prompt_holm", "Prompts: p (Holm)", "p"), ("prompt_effect", "Prompts: d_z", "+.2f"),
        ("paper_t", "Pooled t over training steps", "+.2f"), ("paper_significant", "seeds with p < 0.05", ""),
        ("published_t", "Paper's t, published", "+.2f"),
    ]  # fmt: skip
    notes = [
        "Seeds: Welch's t-test of the seeds' test rewards; it speaks about methods. Prompts: sign-flip permutation test over the same test "
        "prompts, rewards averaged over seeds; it speaks about these trained policies only. Holm's adjustment over all pairs.",
        "Pooled t, the paper's test: two-sample t-test of training rewards in the last 20% of the steps, run against run, mean over seeds. "
        "Steps of one run are not independent draws "
        "(each starts where the last one ended), one run says nothing about the method, and training rewards of different methods need "
        "not be the same quantity (GRADE scores soft tokens): it is shown for comparison with the paper, not as evidence.",
    ]
    if not any(row.get("published_t") is not None for row in rows):
        columns = columns[:-1]
    return Table("Table 2. Differences between methods", columns, rows, notes)


def stability(variants: list[Variant]) -> Table:
    """Appendix B.2: variance of the training reward within windows of 50 steps."""
    rows = []
    for variant in variants:
        rewards = [run.column("train/reward") for run in variant.runs]
        row: dict[str, Any] = {"method": variant.label, "seeds": len(rewards)}
        for name, leave_out in (("published", True), ("all", False)):
            found = [windowed_variance(r.tolist(), leave_out_last=leave_out) for r in rewards]
            values = [value for value in found if value is not None]
            row[name] = mean(values) if values else None
        if variant.method in TABLE1 and variant.like_paper:
            row["paper"] = TABLE1[variant.method].stability
        rows.append(row)
    columns = [
        ("method", "Method", ""), ("seeds", "Seeds", "d"), ("published", "As published", ".4f"), ("all", "All windows", ".4f"),
        ("paper", "Paper", ".4f"),
    ]  # fmt: skip
    notes = [
        "Mean over consecutive windows of 50 steps of the variance (ddof 0) of the training reward. As published: without the last window, "
        "as the paper's values were computed. A steady rise counts as instability, and a policy that never learns as stability."
    ]
    if not any("paper" in row for row in rows):
        columns = columns[:-1]
    return Table("Appendix B.2. Stability", columns, rows, notes)
