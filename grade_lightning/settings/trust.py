"""What a run folder's configuration may make this process import or run: a folder may come from somebody else."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from grade_lightning.settings.parse import KNOWN


def check_trust(plain: Mapping[str, Any], folder: Path) -> None:
    """Raise ValueError where reading this configuration would run code that does not belong to this package.

    Of ours are the components that settings know.  A reward's function is the user's own module, which is imported by name, but never from
    the run folder itself.

    Args:
        plain: values of ``config.yaml``.
        folder: that it was read from.
    """
    found = sorted(set(_foreign("", plain, folder.resolve())))
    if found:
        raise ValueError(
            f"{folder / 'config.yaml'} names code from outside this package ({'; '.join(found)}): if you made this run, or have read that "
            "code, say trust=true"
        )


def _foreign(key: str, value: Any, folder: Path) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _foreign(f"{key}.{name}" if key else str(name), item, folder)
    elif isinstance(value, list):
        for item in value:
            yield from _foreign(key, item, folder)
    elif _is_foreign(key, value, folder):
        yield f"{key}={value}"


def _is_foreign(key: str, value: Any, folder: Path) -> bool:
    last = key.rsplit(".", 1)[-1]
    if last == "_target_":
        return value not in KNOWN
    if last == "trust_remote_code":
        return bool(value)
    return last == "function" and isinstance(value, str) and _lies_in(value.split(":")[0].split(".")[0], folder)


def _lies_in(module: str, folder: Path) -> bool:
    """Whether a top-level module would be imported from inside a folder."""
    if any((folder / f"{module}{end}").exists() for end in (".py", "")) and Path.cwd().resolve().is_relative_to(folder):
        return True  # the working directory is searched for functions
    try:
        spec = importlib.util.find_spec(module) if module.isidentifier() else None
    except (ImportError, ValueError):
        return False
    places = [] if spec is None else [spec.origin, *(spec.submodule_search_locations or [])]
    return any(Path(place).resolve().is_relative_to(folder) for place in places if place and Path(place).exists())
