"""What is said where a disk is full or read-only."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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
    except ValueError:
        raise  # a message already, maybe of another folder's
    except Exception as error:
        if not _is_of_the_disk(error):
            raise
        raise ValueError(
            f"{_place(error, folder)} cannot be written ({error}): free space there and give the same command again, which goes on with "
            f"what is kept, or {otherwise}"
        ) from error


def _place(error: Exception, folder: Path) -> Path:
    """What could not be written: the folder, or a file elsewhere that the system names."""
    named = getattr(error, "filename", None)
    inside = not isinstance(named, str) or Path(named).absolute().is_relative_to(folder.absolute())
    return folder if inside else Path(str(named))


def _is_of_the_disk(error: Exception) -> bool:
    """Libraries written in Rust put the system's number into their message."""
    if isinstance(error, OSError):
        return error.errno in _NO_DISK
    return any(f"(os error {number})" in str(error) for number in _NO_DISK)
