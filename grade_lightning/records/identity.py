"""Which run is which: a short hash of its resolved settings, the same wherever its data and model lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

NOT_IDENTITY = ("hydra", "run", "logger")  # where and how a run is written down, not what it is


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


# Import paths that stand in configurations and have moved -> what earlier versions called them.
MOVED = {
    "grade_lightning.rewards.head_training.trained_classifier": "grade_lightning.models.reward_training.trained_classifier",
    "grade_lightning.rewards.head_training.HeadSettings": "grade_lightning.models.reward_training.HeadSettings",
}


def _with_former_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_former_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_former_paths(item) for item in value]
    return MOVED.get(value, value) if isinstance(value, str) else value


def run_hash(resolved: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> str:
    """A short hash of resolved settings without paths (and without the named root keys).

    Args:
        resolved: plain dictionaries, lists and scalars; a value that is missing reads ``???``.
    """
    plain = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY + without}
    plain = _without_folders(_with_former_paths(_with_changed(_without_added(plain))))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
