"""One self-contained page with everything: no network, no other file."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.figures import inline_svg
from grade_lightning.reporting.pairing import Prompt, occurrences
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.variants import Variant, colours, different_settings

_SHOWN = ("reward", "judge", "completion_reward", "perplexity", "kl", "tokens")


def samples(variants: list[Variant]) -> list[dict[str, Any]]:
    """Test samples with what the initial policy wrote after the same prompt with the same noise."""
    found = []
    for variant in variants:
        for run in variant.runs:
            before, tests = (_by_prompt(run.samples, split) for split in ("initial", "test"))
            for key, after in tests.items():
                start = before.get(key, {})
                lift = [s["reward"] for s in (after, start) if is_number(s.get("reward"))]
                found.append({
                    "method": variant.label, "seed": run.seed, "prompt": after["prompt"], "after": after["completion"],
                    "before": start.get("completion", ""), "lift": lift[0] - lift[1] if len(lift) == 2 else None,
                    **{name: after[name] if is_number(after.get(name)) else None for name in _SHOWN},
                    "kl": after["kl"] / after["tokens"] if is_number(after.get("kl")) and after.get("tokens") else None,
                })  # fmt: skip
    return found


def _by_prompt(samples: list[dict[str, Any]], split: str) -> dict[Prompt, dict[str, Any]]:
    """Samples of a split; without ids prompts are told apart by their text."""
    chosen = [s for s in samples if s["split"] == split]
    return dict(zip(occurrences(s.get("prompt_id", s["prompt"]) for s in chosen), chosen, strict=True))


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def environments(variants: list[Variant]) -> list[dict[str, Any]]:
    """Where each run was made, equal ones together."""
    found: dict[str, dict[str, Any]] = {}
    for variant in variants:
        for run in variant.runs:
            env = run.environment
            facts = {
                "git revision": (env.get("git_revision") or "-") + (" (with uncommitted changes)" if env.get("git_dirty") else ""),
                "python": env.get("python"), "platform": env.get("platform"), "processor": env.get("processor"), "gpu": env.get("gpu"),
                "threads": env.get("torch_threads"),
                "packages": ", ".join(f"{name} {version}" for name, version in _dictionary(env.get("packages")).items()),
            }  # fmt: skip
            entry = found.setdefault(json.dumps(facts, sort_keys=True), {"facts": facts, "runs": []})
            entry["runs"].append(f"{variant.label}, seed {run.seed}")
    return list(found.values())


def page(variants: list[Variant], tables: list[Table], figures: dict[str, tuple[str, Figure]], warnings: list[str], *, name: str) -> str:
    """The page as text.

    Args:
        name: of what was reported on.
    """
    template = files("grade_lightning.reporting").joinpath("page.html").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    # A variant's runs differ in their seed alone, so the first one stands for all.
    differences = different_settings([variant.runs[0] for variant in variants])
    look = colours(variants)
    drawn = [(key, title, Markup(inline_svg(figure, key))) for key, (title, figure) in figures.items()]  # noqa: S704  our own drawing
    return environment.from_string(template).render(
        name=name, warnings=warnings, tables=tables, figures=drawn, variants=variants, differences=differences,
        colours={variant.label: look[variant.label][0] for variant in variants},
        environments=environments(variants), runs=sum(len(variant.runs) for variant in variants), samples=_script_safe(samples(variants)),
    )  # fmt: skip


def _script_safe(value: Any) -> Markup:
    """JSON for inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  every character that markup could be made of was escaped
