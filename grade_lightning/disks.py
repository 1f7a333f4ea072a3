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
