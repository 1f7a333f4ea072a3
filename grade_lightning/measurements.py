"""Names of what is measured of text, for those who write, keep and show it; imports nothing."""

from __future__ import annotations

CLASSIFIER_JUDGE = "classifier"  # the judge of every run with labelled reviews
NOT_FLUENT = 2.0  # times the initial policy's perplexity: a judge may be sure of what is no sentence
_KINDS = ("judge_", "reward_")


def measurement(judge: str) -> str:
    """Under which name a prompt's record has what a judge gives: ``judge`` for the one of every run, ``judge_NAME`` for others."""
    return "judge" if judge == CLASSIFIER_JUDGE else f"judge_{judge}"


def best_by(best: str) -> str:
    """The mean at validation that ``evaluation.best`` names."""
    return "reward_mean" if best == "reward" else f"{measurement(best)}_mean"


def is_own(name: str) -> bool:
    """Whether a measurement, or its mean, is of a user's own judge or of a part of a reward."""
    return name.startswith(_KINDS) and name not in ("judge_mean", "reward_mean", "reward_std")


def is_judged_or_part(name: str) -> bool:
    """The same, the judge of every run included."""
    return name in ("judge", "judge_mean") or is_own(name)


def kind_and_name(own: str) -> tuple[str, str]:
    """(``judge`` or ``reward``, what the user calls it) of a measurement of which :func:`is_own` is true."""
    kind, _, name = own.removesuffix("_mean").partition("_")
    return kind, name
