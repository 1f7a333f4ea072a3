"""What a card has to say against what it shows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from grade_lightning.exporting.finished import FinishedRun
from grade_lightning.measurements import NOT_FLUENT


def limits(run: FinishedRun, checkpoint: str, rounding: float) -> Iterator[str]:
    """Sentences, the most important ones first."""
    results = run.results
    before, after = results.get("initial") or {}, results.get("test") or {}
    yield (
        "The reward is a stand-in for what is wanted. Training finds text that it likes, whether or not people would; a reward that rose "
        "says nothing else."
    )
    yield from _against(before, after)
    if after:
        yield f"One run with one seed, measured on {after.get('n', '?')} prompts of the same source as those of training."
    else:
        yield "One run with one seed, and no test: validation may have been used to choose among runs."
    if checkpoint == "best":
        yield "These weights are those of the best of several validations, whose number is too high by that choice."
    if run.settings.model.pretrain is not None:
        yield "The base is a small model that was pretrained for this run alone: it is no general language model."
    if results.get("data") == "synthetic":
        yield "Prompts and training texts are synthetic, made of a few hundred phrases."
    if rounding > 0:
        yield (
            f"Adding the adapters to {run.dtype} weights rounded them: the error is {rounding:.0%} as long as what training added. "
            "The adapter, exported without merge=true, has no such error."
        )
    if run.environment.get("git_dirty"):
        yield "The program had uncommitted changes when it made this: its revision does not say all of what ran."
    yield "Nothing was examined for safety, truth or bias. What the base does wrong, this does too."
    yield "No licence is given here: that of the base holds for what is made from it."


def _against(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    """What the other measurements say where the reward rose."""
    had, has = (measured.get("perplexity") for measured in (before, after))
    if had and has and has > NOT_FLUENT * had:
        yield f"The text is less fluent: its perplexity under the base rose from {had:.1f} to {has:.1f}."
    gain = after.get("reward_mean", 0.0) - before.get("reward_mean", 0.0)
    if "judge_mean" in after and "judge_mean" in before and after["judge_mean"] <= before["judge_mean"] < before["judge_mean"] + gain:
        yield "The independent judge saw no gain where the reward did."
    if before.get("distinct_2") and after.get("distinct_2", 1.0) < 0.8 * before["distinct_2"]:
        yield "The text is less varied: " + f"distinct-2 fell from {before['distinct_2']:.3f} to {after['distinct_2']:.3f}."
