"""Where a command is: phases written to a file as it enters them, and a signal at a chosen change of a file."""

from __future__ import annotations

import functools
import os
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir")


def install(file: str, watched: Sequence[str], at: int | None, signal: int) -> None:
    """Wrap the functions that begin a phase, and watch changes of files.

    Args:
        file: gets a line ``seconds name`` for each phase, and for each change of a file under ``watched``.
        watched: folders.
        at: the change before which the process sends itself a signal.
        signal: which.
    """
    from grade_lightning.models import pretraining
    from grade_lightning.rewards import head_training
    from grade_lightning.training.course import Course
    from grade_lightning.training.recorder import StepRecorder

    stream = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)

    def mark(name: str) -> None:
        os.write(stream, f"{time.monotonic()} {name}\n".encode())

    def marked(function: Callable[..., Any], name: Callable[..., str]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*arguments: Any, **options: Any) -> Any:
            mark(name(*arguments))
            return function(*arguments, **options)

        return wrapped

    pretraining.pretrain = marked(pretraining.pretrain, lambda *_: "pretraining")
    head_training._train = marked(head_training._train, lambda *_: "head")
    Course._timed = marked(Course._timed, lambda _, name, *__: name)  # type: ignore[method-assign]
    Course._finish = marked(Course._finish, lambda *_: "finish")  # type: ignore[method-assign]
    StepRecorder.on_train_epoch_end = marked(StepRecorder.on_train_epoch_end, lambda *_: "step")  # type: ignore[method-assign]
    sys.addaudithook(_Changes(tuple(os.path.realpath(folder) for folder in watched), at, signal, mark))
    mark("start")


class _Changes:
    """An audit hook that counts changes of files under some folders."""

    def __init__(self, folders: tuple[str, ...], at: int | None, signal: int, mark: Callable[[str], None]):
        self.folders, self.at, self.signal, self.mark, self.seen = folders, at, signal, mark, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        writes = event in CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR))
        if not writes or not isinstance(arguments[0], (str, os.PathLike)):
            return
        if not os.path.abspath(arguments[0]).startswith(self.folders):
            return
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), self.signal)
        self.mark("change")
