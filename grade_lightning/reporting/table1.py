"""The paper's Table 1, with what it leaves out: the initial policy, several seeds, the KL that was paid."""

from __future__ import annotations

import math
from typing import Any

from grade_lightning.reporting.objective import kl_weight
from grade_lightning.reporting.pairing import Prompt
from grade_lightning.reporting.published import TABLE1
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.significance import Interval, few_interval, mean_interval
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.variants import Variant


def paired_lift(runs: list[Run], name: str = "reward") -> Interval | None:
    """A measurement of the test minus that of the initial policy on the same prompts and noise, averaged over seeds.

    Interval over prompts; None where the runs did not keep the measurement.
    """
    differences: dict[Prompt, list[float]] = {}
    for run in runs:
        before, after = run.per_prompt("initial", name), run.per_prompt("test", name)
        for key in before.keys() & after.keys():
            differences.setdefault(key, []).append(after[key] - before[key])
    return over_seeds(differences, len(runs))


def over_seeds(differences: dict[Prompt, list[float]], seeds: int) -> Interval | None:
    """Interval over prompts of what each prompt's seeds have on average; prompts that lack a seed are left out, None if all do."""
    complete = [math.fsum(values) / seeds for _, values in sorted(differences.items()) if len(values) == seeds]
    return mean_interval(complete) if complete else None


def mean(values: list[float]) -> float:
    """Mean of what is a number; nan without any."""
    finite = [value for value in values if not math.isnan(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def number(found: dict[str, Any], key: str) -> float:
    """A value of a results dictionary, nan where it is missing or null."""
    value = found.get(key)
    return math.nan if value is None else float(value)


def kl_of_sequences(run: Run, split: str = "test") -> float:
    """Mean KL of whole completions, in nats; of runs of earlier versions from each prompt's; nan where it is unknown."""
    found = run.results[split]
    return number(found, "kl_sequence_mean") if "kl_sequence_mean" in found else mean(list(run.per_prompt(split, "kl").values()))


def gap_error(run: Run) -> float:
    """Standard error of best validation - test from the spreads over prompts, as if the best step had not been chosen; nan if unknown."""
    best = run.results["best_validation"].get("step")
    sides = [run.results["test"], next((v for v in run.results["validation"] if v["step"] == best), {})]
    return math.sqrt(sum(number(side, "reward_std") ** 2 / (number(side, "n") or math.nan) for side in sides))


def _row(variant: Variant) -> dict[str, Any]:
    runs, tested = variant.runs, variant.tested
    tests = [number(run.results["test"], "reward_mean") for run in tested]
    bests = [number(run.results["best_validation"], "reward_mean") for run in runs]
    gaps = [number(r.results["best_validation"], "reward_mean") - number(r.results["test"], "reward_mean") for r in tested]
    errors = [gap_error(run) for run in tested]
    row: dict[str, Any] = {
        "method": variant.label, "seeds": len({run.seed for run in tested or runs}), "test": few_interval(tests) if tests else None,
        "test_bootstrap": mean_interval(tests) if len(tests) > 1 else None,
        "test_std": mean([number(run.results["test"], "reward_std") for run in tested]),
        "prompts": tested[0].results["test"]["n"] if tested else None,
        "gap_error": math.sqrt(math.fsum(e * e for e in errors)) / len(errors) if errors else math.nan, "best_validation": mean(bests),
        "gap": mean(gaps), "grad_norm_spread": mean([run.mean("train/grad_norm_tensor_std") for run in runs]),
        "kl": mean([number(run.results["test"], "kl_mean") for run in tested]), "lift": paired_lift(tested) if tested else None,
        "objective": ", ".join(sorted({kl_weight(run) for run in runs})), "kl_sequence": mean([kl_of_sequences(run) for run in tested]),
    }  # fmt: skip
    if variant.method in TABLE1 and variant.like_paper:
        published = TABLE1[variant.method]
        row.update({
            "paper_test": f"{published.test_mean:.3f} ± {published.test_std:.3f}",
            "paper_test_mean": published.test_mean, "paper_test_std": published.test_std, "paper_best": published.best_validation,
            "paper_spread": published.grad_norm_spread, "paper_gap": published.gap,
        })  # fmt: skip
    return row


def _initial_row(runs: list[Run]) -> dict[str, Any] | None:
    measured = [run for run in runs if run.results["initial"]]
    if not measured:
        return None
    found = [run.results["initial"] for run in measured]
    value = mean([number(m, "reward_mean") for m in found])
    return {
        "method": "initial policy", "seeds": len({run.seed for run in measured}), "test": Interval(value, math.nan, math.nan),
        "test_std": mean([number(m, "reward_std") for m in found]), "prompts": found[0]["n"], "kl": 0.0, "kl_sequence": 0.0,
    }  # fmt: skip


def table1(variants: list[Variant]) -> Table:
    """Published values beside ours, the initial policy as a row of its own; several seeds: mean over seeds with 95% intervals."""
    initial = _initial_row([run for variant in variants for run in variant.runs])
    columns = [
        ("method", "Method", ""), ("seeds", "Seeds", "d"), ("test", "Test reward", ".3f"),
        ("test_bootstrap", "Bootstrap over seeds", ""), ("test_std", "Std over prompts", ".3f"),
        ("lift", "Lift over step 0, paired", ".3f"), ("kl", "KL, nats/token", ".3f"),
        ("kl_sequence", "KL, nats/completion", ".2f"), ("objective", "Weight of the KL: nominal, effective", ""),
        ("best_validation", "Best validation", ".3f"),
        ("gap", "Generalisation gap", ".3f"), ("gap_error", "its s.e.", ".3f"),
        ("grad_norm_spread", "Spread of tensors' gradient norms", ".3g"),
        ("paper_test", "Paper: test", ""), ("paper_best", "Paper: best val.", ".3f"), ("paper_gap", "Paper: gap", ".3f"),
        ("paper_spread", 'Paper: "Grad Var"', ".3g"),
    ]  # fmt: skip
    notes = [
        "Test reward: mean over seeds with Student's 95% interval where there are several; the bootstrap interval beside it is too "
        "narrow for few seeds (for normal values its nominal 95% covers 73% with three and 86% with five). Std: over prompts, ddof 0.",
        "Lift: same prompts and noise as the initial policy, averaged over seeds, 95% bootstrap interval over prompts.",
        "Weight of the KL: beta as it was set, and what it weighs against the reward. A reward gradient that is too short by c (relaxed "
        "tokens: cosine times ratio of lengths, measured by grade_lightning.gradients) or scaled by normalised advantages leaves the KL's "
        "at its full length, so that runs of one nominal beta maximise different things: compare them at equal KL.",
        "Generalisation gap: best validation - test; its standard error takes the best step as given, so it is too small.",
        "Spread: mean over steps of the standard deviation of gradient norms across parameter tensors, which the paper calls "
        '"Grad Var"; it is not the variance of an estimator.',
        "The paper's values come from another model and other test prompts; they are comparable with ours only where the model, the "
        "protocol and the data are the paper's.",
    ]
    rows = [*([initial] if initial else []), *map(_row, variants)]
    if not any("paper_test" in row for row in rows):
        columns, notes = [column for column in columns if not column[0].startswith("paper_")], notes[:-1]
    return Table("Table 1. Test reward", columns, rows, notes)
