"""What the entries without Hydra share: arguments, help, and a refusal in one line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from grade_lightning.threads import wait_briefly

T = TypeVar("T")


def flag(values: Mapping[str, str], key: str) -> bool:
    """Whether an argument of an entry without Hydra is true; left out, it is false.

    Raises:
        ValueError: it is neither.
    """
    value = values.get(key, "false")
    if value not in ("true", "false"):
        raise ValueError(f"{key}={value} is neither true nor false: use true or false")
    return value == "true"


def command(doc: str | None, given: Sequence[str] | None, make: Callable[[Sequence[str]], T], show: Callable[[T], None]) -> int:
    """A whole command: its help, or what it makes and shows.

    Args:
        doc: the help.
        given: arguments; the process' own if None.
        make: from the arguments; a ValueError is a request that cannot be met, and its message all that is printed.
        show: what was made.

    Returns:
        Exit status: 0, or 2 for a request that cannot be met.
    """
    arguments = sys.argv[1:] if given is None else given
    if arguments and arguments[0] in ("-h", "--help", "help"):
        print(doc)
        return 0
    wait_briefly()
    from grade_lightning.training.process import prepare_process

    prepare_process()
    try:
        made = make(arguments)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    show(made)
    return 0
