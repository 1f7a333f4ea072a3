"""Files that a reader never sees half-written."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, content: str | bytes | Callable[[Path], object]) -> None:
    """Replace a file as a whole: whoever reads it finds the old content or the new one, also where the process or the machine stops.

    Args:
        path: of the file; its folder is made if missing.  Several processes may write the same file: the last one to end wins.
        content: text (as UTF-8), bytes, or a function that writes to the path it is given.

    Raises:
        OSError: the file cannot be written; the old one is still there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name of its own, so that two writers do not write into each other's file; in the same folder, so that it can be renamed.
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        _to_disk(partial)
        partial.chmod(path.stat().st_mode if path.exists() else 0o666 & ~_umask())  # mkstemp lets its owner alone read
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _to_disk(path: Path) -> None:
    """Without it a crash of the machine may leave the new name with no content."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _umask() -> int:
    """Which permissions new files lack; it can only be read by setting it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
