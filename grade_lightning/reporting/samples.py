"""Samples prompt by prompt: once what the initial policy wrote, beside it what each method writes after the same prompt and noise."""

from __future__ import annotations

from typing import Any

from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.pairing import Prompt, occurrences
from grade_lightning.reporting.variants import Variant

SHOWN = ("reward", "judge", "completion_reward", "perplexity", "kl", "tokens")
LONGEST = 1200  # characters of a text on the page


def samples(variants: list[Variant]) -> list[dict[str, Any]]:
    """Test samples with what the initial policy wrote after the same prompt with the same noise."""
    found = []
    for place, variant in enumerate(variants):
        for run in variant.runs:
            before, tests = (_by_prompt(run.samples, split) for split in ("initial", "test"))
            for key, after in tests.items():
                start = before.get(key, {})
                lift = [s["reward"] for s in (after, start) if is_number(s.get("reward"))]
                found.append({
                    "method": variant.label, "place": place, "seed": run.seed, "key": key, "prompt": after["prompt"],
                    "after": after["completion"], "before": start.get("completion", ""),
                    "before_reward": start["reward"] if is_number(start.get("reward")) else None,
                    "lift": lift[0] - lift[1] if len(lift) == 2 else None,
                    **{name: after[name] if is_number(after.get(name)) else None for name in SHOWN},
                    "kl": after["kl"] / after["tokens"] if is_number(after.get("kl")) and after.get("tokens") else None,
                })  # fmt: skip
    return found


def _by_prompt(kept: list[dict[str, Any]], split: str) -> dict[Prompt, dict[str, Any]]:
    """Samples of a split; without ids prompts are told apart by their text."""
    chosen = [s for s in kept if s["split"] == split]
    return dict(zip(occurrences(_hashable(s.get("prompt_id", s["prompt"])) for s in chosen), chosen, strict=True))


def _hashable(key: Any) -> Any:
    return key if isinstance(key, str | int | float) else repr(key)


def by_prompt(found: list[dict[str, Any]], most: int, most_cards: int) -> tuple[list[dict[str, Any]], int]:
    """The first prompts with their samples, and how many prompts there are.

    Runs of one prompt that began from different texts (other models, other sampling) are groups of their own.

    Args:
        most: prompts.
        most_cards: samples in all.
    """
    groups: dict[Any, dict[str, Any]] = {}
    for sample in found:
        name = (sample["key"], sample["prompt"], sample["before"])
        group = groups.setdefault(
            name, {"prompt": clip(sample["prompt"]), "before": clip(sample["before"]), "reward": sample["before_reward"], "after": []}
        )
        group["after"].append({**sample, "after": clip(sample["after"])})
    chosen: list[dict[str, Any]] = []
    cards = 0
    for group in list(groups.values())[:most]:
        cards += len(group["after"])
        if chosen and cards > most_cards:
            break
        group["after"] = group["after"][:most_cards]
        chosen.append(group)
    return chosen, len(groups)


def clip(text: str, most: int = LONGEST) -> str:
    return text if len(text) <= most else text[:most] + " … (cut)"


def span(variants: list[Variant]) -> tuple[float, float]:
    """Lowest and highest reward of all samples, 0 and 1 where they lie between: what a colour stands for."""
    rewards = [s["reward"] for v in variants for run in v.runs for s in run.samples if is_number(s.get("reward"))]
    if not rewards or (min(rewards) >= 0 and max(rewards) <= 1):
        return 0.0, 1.0
    return float(min(rewards)), float(max(rewards))
