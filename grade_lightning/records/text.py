"""JSON and YAML as records hold them."""

from __future__ import annotations

import json
import math
import re
from typing import Any

# A raw line break after the bracket: no bracket inside a string has one.
_LIST_OF_SCALARS = re.compile(r"\[\n[^\[\]{}\"]*\]")


def json_text(value: Any) -> str:
    """Indented JSON with lists of numbers on one line each; what is no finite number is null, as JSON has nothing else for it."""
    text = json.dumps(finite(value), indent=1, allow_nan=False)
    return _LIST_OF_SCALARS.sub(lambda found: " ".join(found.group().split()), text) + "\n"


def finite(value: Any) -> Any:
    """The same value with None for nan and infinity, at any depth."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def yaml_text(value: Any) -> str:
    """YAML in the order of the values, one key a line."""
    import yaml  # slow to import, and only the start of a run needs it

    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)
