"""What a command says: a console without the chatter of libraries, and all that was logged in ``run.log`` of the run folder."""

from __future__ import annotations

import logging
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

# Messages of libraries that say nothing about the run: these alone are kept from the console, and run.log has them.
CHATTER = re.compile(
    r"(GPU|TPU|HPU) available"
    r"|LOCAL_RANK: "
    r"|Tip: .*\[lit(logger|models)\]"
    r"|`Trainer\.fit` stopped: `max_epochs="
    r"|`?Trainer\(limit_\w+=1\.0\)`? was configured"
    r"|Restor(ing|ed all) states from"
    r"|(Initializing distributed: |distributed_backend=|-{20,}|All distributed processes)"
    r"|Retrying \(Retry\("  # of urllib3; what comes of it is said once
)
FORMAT = "[%(asctime)s][%(name)s][%(levelname)s] %(message)s"
_LIGHTNING = ("lightning", "lightning.pytorch", "lightning.fabric")  # loggers with handlers of their own
_FOREIGN = ("lightning", "lightning_fabric", "pytorch_lightning", "lightning_utilities", "urllib3")


def worth_showing(record: logging.LogRecord) -> bool:
    """Whether a message belongs on the console."""
    if record.name.split(".")[0] not in _FOREIGN:
        return True
    return CHATTER.match(record.getMessage().lstrip("\n💡 ")) is None


class ConsoleHandler(logging.StreamHandler):
    """Messages between progress bars: on a terminal a bar makes room for them."""

    def __init__(self, stream: Any = None):
        super().__init__(stream or sys.stdout)
        self.addFilter(worth_showing)

    def emit(self, record: logging.LogRecord) -> None:
        """One message."""
        if not sys.stderr.isatty():
            if getattr(tqdm, "_instances", None):  # a bar's line is ended, not continued
                sys.stderr.write("\n")
            super().emit(record)
            return
        try:
            tqdm.write(self.format(record), file=self.stream)
        except OSError:
            self.handleError(record)


class _File(logging.FileHandler):
    """A file of messages; where it takes no more, that is said once, in place of a traceback for each message."""

    _failed = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            self._say(error)
        else:
            super().handleError(record)

    def close(self) -> None:
        """The end of the command, at which what is still held is written."""
        try:
            super().close()
        except OSError as error:
            self._say(error)

    def _say(self, error: OSError) -> None:
        if not self._failed:
            print(f"{Path(self.baseFilename).name} lacks messages from here on ({error.strerror})", file=sys.stderr, flush=True)
        self._failed = True


class RunLog(logging.Handler):
    """Keeps messages until the run folder is there, then writes them, and all that follow, to its ``run.log``."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._held: list[logging.LogRecord] = []
        self._file: logging.FileHandler | None = None

    def open(self, folder: Path) -> None:
        """The run folder is there, and this process writes it."""
        self._file = _File(folder / "run.log")
        self._file.setFormatter(logging.Formatter(FORMAT))
        for record in self._held:
            self._file.handle(record)
        self._held.clear()

    def emit(self, record: logging.LogRecord) -> None:
        """One message."""
        if self._file is None:
            self._held.append(record)
        else:
            self._file.handle(record)

    def close(self) -> None:
        """The end of the command."""
        if self._file is not None:
            self._file.close()
        super().close()

    def note(self, level: int, message: str, error: BaseException | None = None) -> None:
        """A line for the file alone."""
        trace = None if error is None else (type(error), error, error.__traceback__)
        self.handle(logging.LogRecord("grade_lightning", level, __file__, 0, message, (), trace))


@contextmanager
def run_log() -> Iterator[RunLog]:
    """Everything that is logged or warned inside goes to the log as well; an error that ends it too.

    Where nobody has set logging up, as in plain Python, the package's own messages are shown on the console.
    """
    kept, root, own = RunLog(), logging.getLogger(), logging.getLogger("grade_lightning")
    shown = None if root.handlers or own.handlers else ConsoleHandler()
    level, apart = own.level, [logger for logger in map(logging.getLogger, _LIGHTNING) if not logger.propagate]
    own.setLevel(min(own.getEffectiveLevel(), logging.INFO))
    show = warnings.showwarning

    def showwarning(message: Any, category: Any, filename: str, lineno: int, *arguments: Any, **options: Any) -> None:
        kept.note(logging.WARNING, f"{filename}:{lineno}: {category.__name__}: {message}")
        show(message, category, filename, lineno, *arguments, **options)

    if shown is not None:
        own.addHandler(shown)
    for logger in (root, *apart):
        logger.addHandler(kept)
    warnings.showwarning = showwarning
    try:
        yield kept
    except Exception as error:
        kept.note(logging.ERROR, f"{type(error).__name__}: {error}", error)
        raise
    finally:
        warnings.showwarning = show
        for logger in (root, *apart):
            logger.removeHandler(kept)
        if shown is not None:
            own.removeHandler(shown)
        own.setLevel(level)
        kept.close()


def silence_foreign_loggers() -> None:
    """Keep the chatter from handlers that Lightning made for itself, as it does where it is imported before logging is set up."""
    for name in _LIGHTNING:
        for handler in logging.getLogger(name).handlers:
            handler.addFilter(worth_showing)
