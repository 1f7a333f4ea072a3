"""The command line before Hydra reads it: keys that do not exist are named with the nearest one that does."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from grade_lightning.settings.describe import config_folder, describe
from grade_lightning.settings.problems import known_keys, nearest
from grade_lightning.settings.root import Settings

# What code of other packages may take: Hydra knows whether their YAML files have such a key.
_OPEN = ("method", "temperature", "reward", "data.source", "method.relaxation", "method.temperature", "evaluation.judges")
_OVERRIDE = re.compile(r"^[~+]*([A-Za-z_][\w./@-]*)=")


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ValueError for a key that no group has.

    Keys that are added with ``+`` are checked later, with all others.
    """
    known = set(known_keys(Settings)) | {field.key for group in describe() for field in group.fields} | {"hydra"}
    unknown = []
    for argument in arguments:
        found = _OVERRIDE.match(argument)
        if found is None or argument.startswith(("+", "-")):
            continue
        key = found.group(1).split("@")[0]
        group = Path(config_folder(), key).is_dir()
        inside = any(key.startswith(f"{prefix}.") for prefix in _OPEN)
        if not (group or inside or "/" in key or key in known or key.split(".")[0] == "hydra"):
            unknown.append(f"{argument}: there is no such setting: did you mean {nearest(key, sorted(known - {'hydra'}))}?")
    if unknown:
        raise ValueError("\n".join(unknown))
