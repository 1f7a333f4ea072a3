"""Rewards of single prompts, run by run, for a page's scatter of two runs."""

from __future__ import annotations

from typing import Any

import numpy as np

from grade_lightning.reporting.pairing import Prompt
from grade_lightning.reporting.samples import clip
from grade_lightning.reporting.variants import Variant

_WORDS = 160  # characters of a prompt that a page shows beside its point


def rewards_by_prompt(variants: list[Variant], most: int) -> dict[str, Any]:
    """Test rewards of each run, and of the initial policy of the first, at the same prompts in the same order; null where one lacks it.

    Args:
        most: numbers in all; prompts beyond that are left out, the last ones first.

    Returns:
        runs: name, variant's place and rewards of each; prompts: their text where a sample shows it; of: how many prompts there are.
    """
    columns = [(f"{variant.label}, seed {run.seed}", place, run.per_prompt("test")) for place, variant in enumerate(variants)
               for run in variant.tested if run.per_prompt("test")]  # fmt: skip
    start = next((found for variant in variants for run in variant.tested if (found := run.per_prompt("initial"))), {})
    if start and columns:
        columns.append(("initial policy", -1, start))
    keys = list(dict.fromkeys(key for *_, column in columns for key in column))
    kept = keys[: most // max(1, len(columns))]
    texts = _texts(variants)
    runs = [{"name": name, "v": place, "r": [_rounded(column.get(key)) for key in kept]} for name, place, column in columns]
    return {"runs": runs if kept else [], "prompts": [clip(texts.get(key, ""), _WORDS) for key in kept], "of": len(keys)}


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def _texts(variants: list[Variant]) -> dict[Prompt, str]:
    """Prompts by key; the first of several with one text stands for all of them."""
    found: dict[Prompt, str] = {}
    for variant in variants:
        for run in variant.runs:
            for sample in run.samples:
                if isinstance(sample.get("prompt_id"), str | int | float):
                    found.setdefault((sample["prompt_id"], 0), sample["prompt"])
    return found


def scatter(found: dict[str, Any], size: float = 100.0) -> dict[str, Any]:
    """The scatter that a page shows before a reader chooses: the two runs with the highest means, in a square of ``size``.

    Returns:
        first, second: places of the runs; low, high: of the axes; points: [x, y, text] of each prompt; mean: of the differences; n.
    """
    scored = [(float(np.mean(known)), place) for place, run in enumerate(found["runs"])
              if run["v"] >= 0 and (known := [value for value in run["r"] if value is not None])]  # fmt: skip
    chosen = [place for _, place in sorted(scored, key=lambda pair: -pair[0])]
    others = [place for place in chosen[1:] if found["runs"][place]["v"] != found["runs"][chosen[0]]["v"]]
    rest = [place for place, run in enumerate(found["runs"]) if run["v"] < 0]
    pair = [*chosen[:1], *(others or rest or chosen[1:])][:2]
    if len(pair) < 2:
        return {}
    values = [value for run in found["runs"] for value in run["r"] if value is not None]
    low, high = min(0.0, *values), max(1.0, *values)
    first, second = (found["runs"][place]["r"] for place in pair)
    both = [(x, y, text) for x, y, text in zip(first, second, found["prompts"], strict=True) if x is not None and y is not None]
    points = [
        [round(size * (x - low) / (high - low), 2), round(size * (high - y) / (high - low), 2), f"{x:g} and {y:g}. {text}"]
        for x, y, text in both
    ]
    mean = float(np.mean([y - x for x, y, _ in both])) if both else 0.0
    return {"first": pair[0], "second": pair[1], "low": low, "high": high, "points": points, "mean": mean, "n": len(both)}
