"""Results as other programs may have written them: what is no number or has the wrong shape is taken out and named."""

from __future__ import annotations

import math
from typing import Any


def is_number(value: Any) -> bool:
    """A finite number; True and False are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def clean(results: Any) -> tuple[dict[str, Any], list[str]]:
    """Results in which every present part has its documented shape, and what was taken out.

    Raises:
        ValueError: without a method and a whole-numbered seed there is no run to speak of.
    """
    if not isinstance(results, dict):
        raise ValueError("it is no JSON object")
    found, faults = dict(results), []
    if not isinstance(found.get("method"), str) or not found["method"]:
        raise ValueError("it names no method")
    try:
        found["seed"] = int(found["seed"])
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"its seed is {found.get('seed')!r}, not a whole number") from None
    found["validation"], dropped = _validations(found.get("validation"))
    if not found["validation"]:
        faults.append("no validation")
    elif dropped:
        faults.append(f"{dropped} validation(s) without step or reward: left out")
    best = found.get("best_validation")
    if not isinstance(best, dict) or not is_number(best.get("reward_mean")):
        faults.append("no best_validation")
        found["best_validation"] = max(found["validation"], key=lambda v: v["reward_mean"], default={})
    for split in ("initial", "test"):
        found[split], wrong = _split(found.get(split))
        faults += [f"{split}: {fault}" for fault in wrong]
    return found, faults


def _validations(value: Any) -> tuple[list[dict[str, Any]], int]:
    listed = value if isinstance(value, list) else []
    whole = [v for v in listed if isinstance(v, dict) and is_number(v.get("step")) and is_number(v.get("reward_mean"))]
    return sorted(whole, key=lambda v: v["step"]), len(listed) - len(whole)


def _split(value: Any) -> tuple[dict[str, Any], list[str]]:
    if not isinstance(value, dict) or not value:
        return {}, ["missing"]
    if not is_number(value.get("reward_mean")):
        return {}, [f"its reward_mean is {value.get('reward_mean')!r}, no number: left out"]
    found, faults = dict(value), []
    for name in ("reward_std", "n"):
        if not is_number(found.get(name)):
            found[name] = None
            faults.append(f"no {name}")
    found["per_prompt"], wrong = _per_prompt(found.get("per_prompt"))
    return found, faults + wrong


def _per_prompt(value: Any) -> tuple[dict[str, list[Any]], list[str]]:
    """Columns as long as the prompt ids; values that are no numbers become nan."""
    ids = value.get("prompt_id") if isinstance(value, dict) else None
    if not isinstance(ids, list) or not ids:
        return {}, ["no per_prompt rewards, so no paired comparison"]
    if not all(isinstance(key, str | int | float) for key in ids):
        return {}, ["per_prompt.prompt_id holds what is no number and no text: left out"]
    found, faults = {"prompt_id": ids}, []
    for name, column in value.items():
        if name == "prompt_id":
            continue
        if not isinstance(column, list) or len(column) != len(ids):
            faults.append(f"per_prompt.{name} is not as long as prompt_id: left out")
            continue
        found[name] = [float(v) if is_number(v) else math.nan for v in column]
        broken = sum(math.isnan(v) for v in found[name])
        if broken:
            faults.append(f"per_prompt.{name}: no number for {broken} of {len(ids)} prompts")
    return found, faults
