"""Progress bars that also read well in a log file."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from tqdm import tqdm

_off = ContextVar("_off", default=False)


@contextmanager
def bars_off(off: bool) -> Iterator[None]:
    """No bars inside, if it is true."""
    token = _off.set(off or _off.get())
    try:
        yield
    finally:
        _off.reset(token)


def bar(iterable: Iterable[Any] | None = None, **options: Any) -> Any:
    """A tqdm bar; when the output is not a terminal it is refreshed every ten seconds at most."""
    return tqdm(iterable, disable=_off.get(), dynamic_ncols=True, mininterval=0.5 if sys.stderr.isatty() else 10.0, **options)
