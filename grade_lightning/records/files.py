"""Files that a reader never sees half-written, and what is said where a disk takes none."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

_NO_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)


@contextmanager
def disk_named(folder: Path, otherwise: str) -> Iterator[None]:
    """Errors of a disk that is full or read-only name the folder and what to do.

    Args:
        folder: that is written inside.
        otherwise: what can be done where no space can be freed.

    Raises:
        ValueError: in place of such an error.
    """
    try:
        yield
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        raise ValueError(
            f"{folder} cannot be written ({error}): free space there and give the same command again, which goes on with what is kept, "
            f"or {otherwise}"
        ) from error


def _is_of_the_disk(error: Exception) -> bool:
    """Libraries written in Rust put the system's number into their message."""
    if isinstance(error, OSError):
        return error.errno in _NO_DISK
    return any(f"(os error {number})" in str(error) for number in _NO_DISK)


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
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    try:
        if callable(content):
            content(partial)
        else:
            partial.write_bytes(content.encode() if isinstance(content, str) else content)
        if path.exists():
            partial.chmod(path.stat().st_mode)
        with partial.open("rb") as stream:
            os.fsync(stream.fileno())  # else a crash of the machine may leave the new name with no content
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)
