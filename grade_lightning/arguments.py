"""The command line before Hydra reads it: keys that do not exist are named with the nearest one that does; and what the entries without
Hydra share: help, and a refusal in one line."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from grade_lightning.settings.describe import config_folder, describe
from grade_lightning.settings.problems import known_keys, nearest
from grade_lightning.settings.root import Settings
from grade_lightning.settings.tracking import TrainerSettings
from grade_lightning.threads import wait_briefly

T = TypeVar("T")

# What code of other packages may take: Hydra knows whether their YAML files have such a key.
_OPEN = (
    "method",
    "temperature",
    "reward",
    "data.source",
    "method.relaxation",
    "method.temperature",
    "evaluation.judges",
    "logger",
    "callbacks",
)
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
        refused = TrainerSettings.REFUSED.get(key.removeprefix("trainer.")) if key.startswith("trainer.") else None
        if refused is not None:
            unknown.append(f"{argument}: {refused}")
            continue
        group = Path(config_folder(), key).is_dir()
        inside = any(key.startswith(f"{prefix}.") for prefix in _OPEN)
        if not (group or inside or "/" in key or key in known or key.split(".")[0] == "hydra"):
            unknown.append(f"{argument}: there is no such setting: did you mean {nearest(key, sorted(known - {'hydra'}))}?")
    if unknown:
        raise ValueError("\n".join(unknown))


def flag(values: Mapping[str, str], key: str) -> bool:
    """Whether an argument of an entry without Hydra is true; left out, it is false.

    Raises:
        ValueError: it is neither.
    """
    value = values.get(key, "false")
    if value not in ("true", "false"):
        raise ValueError(f"{key}={value} is neither true nor false: use true or false")
    return value == "true"


def command(doc: str | None, given: Sequence[str] | None, make: Callable[[Sequence[str]], T], show: Callable[[T], None]) -> int:
    """A whole command: its help, or what it makes and shows.

    Args:
        doc: the help.
        given: arguments; the process' own if None.
        make: from the arguments; a ValueError is a request that cannot be met, and its message all that is printed.
        show: what was made.

    Returns:
        Exit status: 0, or 2 for a request that cannot be met.
    """
    arguments = sys.argv[1:] if given is None else given
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(doc)
        return 0
    wait_briefly()
    from grade_lightning.training.process import prepare_process

    prepare_process()
    try:
        made = make(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(made)
    return 0
