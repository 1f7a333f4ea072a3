"""The command line before Hydra reads it: what does not exist is named with the nearest that does."""

from __future__ import annotations

import difflib
import re
import sys
from collections.abc import Sequence
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from grade_lightning.compose import composed, composes, resolved
from grade_lightning.settings.describe import GROUPS, config_folder, describe, options_of
from grade_lightning.settings.problems import known_keys, nearest
from grade_lightning.settings.root import Settings
from grade_lightning.settings.tracking import TrainerSettings

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
_OVERRIDE = re.compile(r"^[~+]*([A-Za-z_][\w./@-]*)=(.*)$", re.DOTALL)
# Arguments that bring options of groups, and keys, that are not known here.
_OWN_FOLDERS = ("hydra.searchpath=", "--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn")
_NAME = re.compile(r"[A-Za-z_][\w.:/-]*")
_FUNCTION = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")


def check_arguments(arguments: Sequence[str]) -> None:
    """Raise ValueError for a key that no group has, and for an option that a group has not.

    Keys that are added with ``+`` are checked later, with all others.
    """
    known, own = _known(), any(argument.lstrip("+").startswith(_OWN_FOLDERS) for argument in arguments)
    takes = cache(lambda: own or composes(_single(arguments)))  # asked where only Hydra knows
    faults = []
    for argument in arguments:
        found = _OVERRIDE.match(argument)
        if found is None or argument.startswith(("+", "-")):
            continue
        key, value = found.group(1).split("@")[0], found.group(2)
        refused = TrainerSettings.REFUSED.get(key.removeprefix("trainer.")) if key.startswith("trainer.") else None
        if refused is not None:
            faults.append(f"{argument}: {refused}")
        elif key in GROUPS:
            faults += [] if own or argument.startswith("~") else _unknown_options(key, value)
        elif not (_might_be(key, known) or (any(key.startswith(f"{prefix}.") for prefix in _OPEN) and takes())):
            faults.append(f"{argument}: there is no such setting: did you mean {nearest(key, sorted(known))}?")
    if faults:
        raise ValueError("\n".join(faults))


@lru_cache(maxsize=1)
def _known() -> frozenset[str]:
    return frozenset(known_keys(Settings)) | {field.key for group in describe() for field in group.fields}


def _might_be(key: str, known: frozenset[str]) -> bool:
    """Whether a key exists, or is not for us to say."""
    group, last = key.split(".", maxsplit=1)[0], key.rpartition(".")[2]
    return key in known or "/" in key or group == "hydra" or last == "_target_" or Path(config_folder(), key).is_dir()


def _single(arguments: Sequence[str]) -> list[str]:
    """The overrides among arguments, without those that a sweep goes through."""
    return [argument for argument in arguments if "=" in argument and not argument.startswith("-") and not set(",(") & set(argument)]


def values_beside_help(arguments: Sequence[str]) -> dict[str, Any] | None:
    """What the overrides beside ``--help`` come to; None, and the reason on the error stream, where they come to nothing."""
    try:
        check_arguments(arguments)
        return resolved(composed([*_single(arguments), "run.dir=unused"]))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return None


def _unknown_options(group: str, value: str) -> list[str]:
    """What is wrong with a group's value, where it names options plainly: one, or several of a sweep."""
    options = options_of(group, config_folder())
    if "(" in value:  # a sweep's own words
        return []
    names = [part.strip().removesuffix(".yaml") for part in value.strip("[]").split(",")] if value.strip() else []
    return [fault for name in names if name not in ("null", *options) and (fault := _fault(group, name, options))]


def _fault(group: str, name: str, options: Sequence[str]) -> str | None:
    listed = f"{group} is one of {', '.join(options)}"
    if re.fullmatch(r"-?[\d.]+(e-?\d+)?|true|false", name, re.IGNORECASE):
        way = f": {group}=constant {group}.value={name}" if group == "temperature" else ""
        return f"{group}={name}: {listed}, chosen by name{way}"
    if group == "reward" and _FUNCTION.fullmatch(name):
        return f"{group}={name}: a function of yours is chosen by reward=function reward.function={name}"
    if not _NAME.fullmatch(name) or Path(config_folder(), group, f"{name}.yaml").exists():
        return None
    near = "".join(f"did you mean {option}? " for option in difflib.get_close_matches(name, options, n=1, cutoff=0.5))
    return f"{group}={name}: there is no such option: {near}{listed}"
