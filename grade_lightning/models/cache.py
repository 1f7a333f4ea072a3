"""A folder of things made once, each under a key of everything that made it."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from grade_lightning.disks import disk_named

log = logging.getLogger(__name__)

FILES = "files"  # in ingredients.json: digests of what was made


def cache_root() -> Path:
    """``GRADE_CACHE``, or ``grade-lightning`` in the user's cache folder."""
    named = os.environ.get("GRADE_CACHE")
    if named:
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "grade-lightning"


def key_of(ingredients: Mapping[str, Any]) -> str:
    """A short hash of JSON-serialisable ingredients."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()[:16]


def make_once(kind: str, ingredients: Mapping[str, Any], make: Callable[[Path], None]) -> Path:
    """The cached folder for these ingredients; ``make(folder)`` fills it if it is not there yet, or if a file in it has changed since.

    Two processes that need the same thing at once make it once: the second waits for the first.  A folder appears under
    its final name only when it is complete, so a killed process leaves nothing half-made behind.

    Raises:
        ValueError: the cache folder cannot be written.
    """
    folder = cache_root() / kind / key_of(ingredients)
    if _whole(folder):
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(f"{folder}.lock")
        _acquire(lock, folder)
    except OSError as error:
        raise ValueError(f"the cache folder {folder.parent} cannot be written ({error}): set GRADE_CACHE to another folder") from error
    try:
        if not _whole(folder):
            if folder.exists():
                log.warning("files of %s were damaged or removed: making it again", folder)
            with disk_named(folder.parent, "set GRADE_CACHE to another folder"):
                _make(folder, ingredients, make)
    finally:
        lock.release()
    return folder


def _make(folder: Path, ingredients: Mapping[str, Any], make: Callable[[Path], None]) -> None:
    partial = folder.with_name(f"{folder.name}.partial")
    for leftover in (partial, folder):
        shutil.rmtree(leftover, ignore_errors=True)
    partial.mkdir()
    make(partial)
    files = {file.name: _digest(file) for file in sorted(partial.iterdir()) if file.is_file()}
    (partial / "ingredients.json").write_text(json.dumps({**ingredients, FILES: files}, indent=1, sort_keys=True) + "\n")
    partial.rename(folder)


def _whole(folder: Path) -> bool:
    """Whether a folder is there with the files that it was made with; of one that an earlier version made, whether it was finished."""
    try:
        noted = json.loads((folder / "ingredients.json").read_text())
        return isinstance(noted, dict) and all(_digest(folder / name) == digest for name, digest in noted.get(FILES, {}).items())
    except (OSError, ValueError):  # not made, not to be read, or not what was written
        return False


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _acquire(lock: FileLock, folder: Path) -> None:
    try:
        lock.acquire(timeout=0.1)
    except Timeout:
        log.warning("another process is making %s: waiting for it", folder)
        lock.acquire()


def files_fingerprint(folder: Path) -> str:
    """A short hash of the contents of a model folder's configuration, tokenizer and weights."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.suffix in {".json", ".safetensors", ".txt", ".model"} and file.name != "ingredients.json":
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()[:16]
