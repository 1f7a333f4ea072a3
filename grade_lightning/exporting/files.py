"""The folder of an export: written as a whole, and put only where nothing else is lost."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

MARKER = "grade_export.json"  # tells an export from another folder, and lists its files


def files_of(folder: Path) -> list[str]:
    """Names of all files below a folder."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if not file.is_dir())


def check_out(out: Path) -> None:
    """Raise ValueError for what an export must not replace: anything but a missing or empty folder, or an earlier export."""
    if not out.exists():
        return
    if not out.is_dir():
        raise ValueError(f"out={out} is a file: name a folder")
    found = files_of(out)
    if not found and not any(out.iterdir()):
        return
    try:
        written = set(json.loads((out / MARKER).read_text())["files"]) | {MARKER}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"out={out} is not empty and no export of this program: name a new folder, or empty it") from error
    others = sorted(set(found) - written)
    if others:
        raise ValueError(f"out={out} holds {others[0]}, which no export wrote: move it away, or name a new folder")


def mark(folder: Path, description: dict[str, Any]) -> None:
    """Write the marker, last of all files."""
    text = json.dumps({**description, "files": files_of(folder)}, indent=1) + "\n"
    (folder / MARKER).write_text(text)


@contextmanager
def replacing(out: Path) -> Iterator[Path]:
    """A new folder that takes the place of ``out`` once the block has filled it; if the block fails, ``out`` is as it was.

    Raises:
        ValueError: the place cannot be written.
    """
    partial, former = (out.with_name(f".{out.name}.{uuid4().hex}.{kind}") for kind in ("partial", "former"))
    try:
        partial.mkdir(parents=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error}): name another folder") from error
    try:
        yield partial
        check_out(out)  # it may have been filled meanwhile
        if out.exists():
            out.rename(former)
        try:
            partial.rename(out)
        except OSError:
            if former.exists():
                former.rename(out)
            raise
        shutil.rmtree(former, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
