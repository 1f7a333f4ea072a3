"""What the entries share about configuration: where it is, and the hash that identifies it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from typing import Any

from hydra.errors import CompactHydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

_PACKAGE = Path(__file__).resolve().parent
# The package's own copy in an installed wheel, the checkout's folder otherwise.  Absolute, because a path relative to the
# caller works under `python -m` and fails when `main` is imported.
CONFIG_DIR = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf")

_NOT_IDENTITY = ("hydra", "run", "logger")  # where and how a run is written down, not what it is


# Keys of later versions and the value that earlier ones had by construction: with it a run keeps the hash it had.
ADDED = {"optimizer.name": "adamw"}


def _with_changed(plain: dict[str, Any]) -> dict[str, Any]:
    """Settings that meant something else in earlier versions: a run that has them is not the run that an earlier version made with them."""
    hops = plain.get("method", {}).get("max_hops")
    return plain if hops is None else {**plain, "method": {**plain["method"], "max_hops": f"{hops} beyond the direct term"}}


def _without_added(plain: dict[str, Any]) -> dict[str, Any]:
    for name, value in ADDED.items():
        group, key = name.split(".")
        if plain.get(group, {}).get(key) == value:
            plain = {**plain, group: {other: kept for other, kept in plain[group].items() if other != key}}
    return plain


def _without_folders(value: Any) -> Any:
    """Folders reduced to their last part, so that a run keeps its hash when its data or model moves; hub ids stay whole."""
    if isinstance(value, dict):
        return {key: _without_folder(str(item)) if key == "path" and item else _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def _without_folder(path: str) -> str:
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()
    return path if is_hub_id else PurePath(path).name


def config_hash(root: DictConfig, *, without: tuple[str, ...] = ()) -> str:
    """A short hash of the resolved configuration without paths (and without the named root keys)."""
    identity = OmegaConf.masked_copy(root, [str(key) for key in root if key not in _NOT_IDENTITY + without])
    identity._set_parent(root)  # interpolations still see the whole configuration
    plain: Any = OmegaConf.to_container(identity, resolve=True, throw_on_missing=False)
    return hashlib.sha256(json.dumps(_without_folders(_with_changed(_without_added(plain))), sort_keys=True).encode()).hexdigest()[:8]


def build(node: DictConfig, *args: Any, **kwargs: Any) -> Any:
    """``hydra.utils.instantiate``, with a user's error as it was raised rather than wrapped."""
    try:
        return instantiate(node, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """An error meant for the user ends the command with its message alone; HYDRA_FULL_ERROR=1 shows where it came from."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise CompactHydraException(str(error)) from error


OmegaConf.register_new_resolver("config_hash", lambda *, _root_: config_hash(_root_), replace=True)
