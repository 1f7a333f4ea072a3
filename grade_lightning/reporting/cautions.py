"""What a reader should doubt: runs that should not stand side by side, and differences that are noise."""

from __future__ import annotations

from grade_lightning.records.identity import MOVED
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.variants import listed

NOT_COMPARABLE = "their numbers are not comparable"
_UNCOMPARABLE = {
    "protocol": "different protocols",
    "data": "different data",
    "model": "different models",
    "steps": "different numbers of steps",
}


def _reward(run: Run) -> tuple[tuple[str, str], ...]:
    """What a run maximised, but for the recipe of a head: its settings, and the fingerprint of what they name."""
    target = run.config.get("reward._target_", "")
    found = {key: value for key, value in run.config.items() if key.startswith("reward.") and not key.startswith("reward.head.")}
    found |= {"reward._target_": MOVED.get(target, target), "reward's files or source": str(run.results.get("reward_fingerprint"))}
    return tuple(sorted(found.items()))


def mixed(runs: list[Run]) -> list[str]:
    """Warnings about runs that should not stand in one table."""
    warnings = [
        f"runs of {what} stand in one table ({listed(sorted(values))}): {NOT_COMPARABLE}"
        for key, what in _UNCOMPARABLE.items()
        if len(values := {str(run.results.get(key)) for run in runs}) > 1
    ]
    rewards = [set(_reward(run)) for run in runs if run.config]
    shared = {item for item in rewards[0] if all(item in one for one in rewards)} if rewards else set()
    differing = sorted({key for one in rewards for key, _ in one - shared})
    if differing:
        warnings.append(f"runs of different rewards stand in one table (they differ in {listed(differing)}): {NOT_COMPARABLE}")
    if len({run.results.get("model_fingerprint") for run in runs if run.results.get("model_fingerprint")}) > 1:
        warnings.append(f"runs whose models have different weights stand in one table: {NOT_COMPARABLE}")
    kept = [set(run.per_prompt("test")) for run in runs if run.per_prompt("test")]
    if len(set(map(frozenset, kept))) > 1:
        common = len(set.intersection(*kept))
        warnings.append(
            f"the runs were tested on different prompts: comparisons use the prompts that both sides have ({common} are common to all)"
        )
    if len({run.results["test"]["n"] for run in runs if run.results["test"]}) > 1:
        warnings.append("the runs were tested on different numbers of prompts")
    return warnings


def within_noise(differences: Table, means: Table) -> list[str]:
    """Pairs that cannot be told apart (over seeds, else over prompts, else by spreads), and gaps within two standard errors."""
    close, warnings = [], []
    for row in differences.rows:
        p = next((row[key] for key in ("seed_holm", "prompt_holm", "unpaired_p") if row.get(key) is not None), None)
        if p is not None and p >= 0.05:
            close.append(f"{row['first']} - {row['second']}")
    if close:
        warnings.append(f"differences within noise (p of at least 0.05 over seeds, with one seed over prompts): {listed(close)}")
    small = [row["method"] for row in means.rows if "gap_error" in row and abs(row["gap"]) < 2 * row["gap_error"]]
    if small:
        warnings.append(f"generalisation gaps within two standard errors of 0: {listed(small)}")
    return warnings
