"""Ctrl-C and SIGTERM: finish the policy step, keep it, say how to go on.  And of several processes: end where another one has ended."""

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

    Args:
        message: see above.
        status: with which the command exits.
    """

    def __init__(self, message: str, status: int = 130):
        super().__init__(message)
        self.status = status


class ProcessLost(Interrupted):
    """Another of several processes has ended; the message says how the run goes on."""

    def __init__(self, message: str):
        super().__init__(message, status=1)


class Interrupt:
    """While it is entered, SIGINT raises :class:`Interrupted`: while policy steps are made once the present one is done, elsewhere at once.

    So does SIGTERM, with which a machine that shuts down or a ``kill`` asks a process to end, unless somebody else handles it already, as
    Slurm's launcher does.  Signals can be handled in a process' main thread alone; elsewhere entering it changes nothing.

    Args:
        how: the command that goes on.
        several: this is one of several processes: SIGTERM, with which torchrun ends them where one has ended, and a connection that
            breaks off raise :class:`ProcessLost`.

    Attributes:
        wanted: an interrupt has come in and waits for the end of the step.
    """

    def __init__(self, how: Callable[[], str] = str, *, several: bool = False):
        self.how, self.several, self.wanted, self._in_step = how, several, False, False
        self._number: int = signal.SIGINT
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interrupt:
        if threading.current_thread() is threading.main_thread():
            self._before[signal.SIGINT] = signal.signal(signal.SIGINT, self._handle)
            if self.several or signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
                self._before[signal.SIGTERM] = signal.signal(signal.SIGTERM, self._terminate)
        return self

    def listen(self) -> None:
        """Take SIGTERM back from a trainer, whose handler would note it for later, or wait for the process that is gone."""
        if signal.SIGTERM in self._before:
            signal.signal(signal.SIGTERM, self._terminate)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self.several and isinstance(error, RuntimeError):
            from grade_lightning.distributed import is_of_a_broken_connection  # torch, for which --help does not wait

            if is_of_a_broken_connection(error):
                raise self._lost() from error

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._number = number
        if not self._in_step or self.wanted:
            self.stop()
        self.wanted = True
        print("\ninterrupt: the run stops and is kept after this policy step (Ctrl-C again stops at once)", file=sys.stderr, flush=True)

    def _terminate(self, number: int, frame: FrameType | None) -> None:
        if not self.several:
            self._handle(number, frame)
            return
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # said once
        raise self._lost()

    def _lost(self) -> ProcessLost:
        return ProcessLost(
            "another process of this run has ended, or all were told to end, and this one ends too: the run is kept up to its last "
            f"checkpoint, and this command goes on with it:\n  {self.how()}"
        )

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
        raise Interrupted(f"interrupted; this command goes on where it stopped:\n  {self.how()}", status=128 + self._number)
