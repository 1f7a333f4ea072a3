"""Judges: rewards that nothing optimises."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from grade_lightning.measurements import measurement
from grade_lightning.rewards.base import Completions, Reward


def judged(judges: Mapping[str, Reward], completions: Completions) -> dict[str, list[float]]:
    """What each judge gives to each completion, by the name of the measurement."""
    return {measurement(name): judge.score(completions).tolist() for name, judge in judges.items()}


def check_best(best: str, judges: Collection[str]) -> None:
    """Raise ValueError where ``evaluation.best`` follows a judge that this run has not."""
    if best != "reward" and best not in judges:
        known = ", ".join(["reward", *judges])
        raise ValueError(f"evaluation.best={best}: this run has no such judge: use one of {known}, or add it to evaluation.judges")
