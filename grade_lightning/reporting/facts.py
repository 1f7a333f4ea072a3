"""Where runs were made, and what a report on them is called."""

from __future__ import annotations

import json
from typing import Any

from grade_lightning.reporting.palette import title
from grade_lightning.reporting.variants import Variant

_NAMED = 6  # methods in a title


def report_title(variants: list[Variant], part: str | None = None) -> str:
    """What a report is about: the part of a study where one was asked for, and its methods; never the name of a folder."""
    methods = list(dict.fromkeys(title(variant.method) for variant in variants))
    named = methods if len(methods) <= _NAMED else [*methods[: _NAMED - 1], f"{len(methods) - _NAMED + 1} more methods"]
    text = named[0] if len(named) == 1 else f"{', '.join(named[:-1])} and {named[-1]}"
    return f"{part}: {text}" if part else text


def _dictionary(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def environments(variants: list[Variant]) -> list[dict[str, Any]]:
    """Where each run was made, equal ones together."""
    found: dict[str, dict[str, Any]] = {}
    for variant in variants:
        for run in variant.runs:
            env = run.environment
            facts = {
                "git revision": str(env.get("git_revision") or "-") + (" (with uncommitted changes)" if env.get("git_dirty") else ""),
                "python": env.get("python"), "platform": env.get("platform"), "processor": env.get("processor"), "gpu": env.get("gpu"),
                "threads": env.get("torch_threads"),
                "packages": ", ".join(f"{name} {version}" for name, version in _dictionary(env.get("packages")).items()),
            }  # fmt: skip
            entry = found.setdefault(json.dumps(facts, sort_keys=True, default=str), {"facts": facts, "runs": []})
            entry["runs"].append(f"{variant.label}, seed {run.seed}")
    return list(found.values())
