"""Ctrl-C: finish the policy step, keep it, say how to go on."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, NoReturn


class Interrupted(BaseException):
    """The user stopped the command; the message says how it goes on.

    Not a KeyboardInterrupt, on which Lightning ends the process by itself, and not an Exception, which a library might swallow.
    """


class Interrupt:
    """While it is entered, SIGINT raises :class:`Interrupted`: while policy steps are made once the present one is done, elsewhere at once.

    Signals can be handled in a process' main thread alone; elsewhere entering it changes nothing.

    Args:
        how: the command that goes on.

    Attributes:
        wanted: an interrupt has come in and waits for the end of the step.
    """

    def __init__(self, how: Callable[[], str] = str):
        self.how, self.wanted, self._in_step = how, False, False
        self._before: Any = None

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self._in_step or self.wanted:
            self.stop()
        self.wanted = True
        print("\ninterrupt: the run stops and is kept after this policy step (Ctrl-C again stops at once)", file=sys.stderr, flush=True)

    def begin_steps(self) -> None:
        """Policy steps begin, half of which could not be gone on from: whoever makes them looks at ``wanted`` after each."""
        self._in_step = True

    def end_steps(self) -> None:
        """The last step is done and recorded; an interrupt that came in after it stops now."""
        self._in_step = False
        if self.wanted:
            self.stop()

    def stop(self) -> NoReturn:
        """Raise :class:`Interrupted`."""
        raise Interrupted(f"interrupted; this command goes on where it stopped:\n  {self.how()}")
