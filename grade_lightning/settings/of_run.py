"""The settings of a run folder, which may come from somebody else: what it may make this process import or run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from grade_lightning.records.identity import as_laid_out_now
from grade_lightning.settings.parse import KNOWN, parse
from grade_lightning.settings.root import Settings

CHECKPOINTS = ("last", "best")

_LARGEST = 1_000_000  # characters of a configuration; ours have some thousands
_ALIASES = 20  # more of them only a file has that is made to explode


def check_run(folder: Path, checkpoint: str) -> None:
    """Raise ValueError for what is no run folder, and for a checkpoint that no run keeps."""
    if not (folder / "config.yaml").exists():
        raise ValueError(f"run={folder} is not a run folder: it has no config.yaml")
    if checkpoint not in CHECKPOINTS:
        raise ValueError(f"checkpoint={checkpoint} is unknown: use one of {', '.join(CHECKPOINTS)}")


def settings_of_run(folder: Path, *, trust: bool = False, functions: bool = True) -> Settings:
    """The settings of a run folder, of earlier versions too; arguments and errors as those of :func:`read_config` and
    :func:`settings_from`."""
    return settings_from(read_config(folder), folder, trust=trust, functions=functions)


def settings_from(config: Mapping[str, Any], folder: Path, *, trust: bool = False, functions: bool = True) -> Settings:
    """The settings that a run folder's plain values are.

    Args:
        config: see :func:`read_config`.
        folder: that they were read from.
        trust: code from outside this package that they name may be imported.
        functions: the caller imports functions that they name.

    Raises:
        ValueError: they are none that this version understands, or name foreign code.
    """
    plain = as_laid_out_now(config)
    if not trust:
        check_trust(plain, folder, functions=functions)
    return parse(plain)


def read_config(folder: Path) -> dict[str, Any]:
    """The plain values of a run folder's ``config.yaml``.

    Raises:
        ValueError: it is not there, is no mapping, or is of a size or depth that no configuration has.
    """
    file = folder / "config.yaml"
    try:
        text = file.read_text()
        if len(text) > _LARGEST or sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)) > _ALIASES:
            raise yaml.YAMLError("larger than any configuration")
        plain = yaml.safe_load(text)
        json.dumps(plain, default=str)  # fails on a value that holds itself, or is nested without end
    except (TypeError, ValueError, OSError, yaml.YAMLError, RecursionError) as error:
        raise ValueError(f"{file} cannot be read ({type(error).__name__})") from error
    if not isinstance(plain, dict):
        raise ValueError(f"{file} holds no settings")
    return plain


def check_trust(plain: Mapping[str, Any], folder: Path, *, functions: bool = True) -> None:
    """Raise ValueError where reading this configuration would run code that does not belong to this package: components that settings do
    not know, functions that are imported by name, code of a model's repository.

    Args:
        plain: values of ``config.yaml``.
        folder: that it was read from.
        functions: the caller imports functions; else only what reading settings imports is looked for.
    """
    found = sorted({said for said in _foreign("", plain) if functions or not said.split("=")[0].endswith("function")})
    if found:
        raise ValueError(
            f"{folder / 'config.yaml'} names code from outside this package ({'; '.join(found)}): if you made this run, or have read that "
            "code, say trust=true"
        )


def _foreign(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            inside = f"{key}.{name}" if key else str(name)
            if name == "_target_" and not isinstance(item, str):
                yield f"{inside}={item}"
            else:
                yield from _foreign(inside, item)
    elif isinstance(value, list):
        for item in value:
            yield from _foreign(key, item)
    elif _is_foreign(key, value):
        yield f"{key}={value}"


def _is_foreign(key: str, value: Any) -> bool:
    last = key.rsplit(".", 1)[-1]
    if last == "_target_":
        return not (isinstance(value, str) and value in KNOWN)
    return bool(value) and last in ("trust_remote_code", "function")
