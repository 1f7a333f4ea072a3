"""Files and folders that a reader never sees half-written."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4


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


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder to fill that becomes ``path`` once the block is through; if the block fails, nothing is left of it.

    Args:
        path: not there, or an empty folder.

    Raises:
        OSError: the place cannot be written, or something was put there meanwhile.
    """
    partial = path.with_name(f".{path.name}.{uuid4().hex}.partial")
    partial.mkdir(parents=True)
    try:
        yield partial
        if path.exists():
            path.rmdir()
        partial.rename(path)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
