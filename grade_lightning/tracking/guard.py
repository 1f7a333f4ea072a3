"""Loggers that cannot stop a run: the first that goes wrong is said, and the rest of the run goes on without it."""

from __future__ import annotations

import logging
import textwrap
from collections.abc import Callable
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

log = logging.getLogger(__name__)

_GUARDED = ("log_metrics", "log_hyperparams", "log_graph", "save", "after_save_checkpoint")


class Guard:
    """Watches over one logger.

    Its methods are replaced on the object, which stays of its class, so that callbacks find what they look for.  ``finalize``
    waits for the end of the run: Lightning calls it after each of validation, fit and test.

    Args:
        name: under which the user knows it.
        logger: which one.
    """

    def __init__(self, name: str, logger: Logger):
        self.name, self.logger, self.lost = name, logger, False
        self._finalize = logger.finalize
        for method in _GUARDED:
            if hasattr(logger, method):
                setattr(logger, method, self._safely(getattr(logger, method)))
        logger.finalize = lambda status: None  # type: ignore[method-assign]

    def _safely(self, method: Callable[..., Any]) -> Callable[..., Any]:
        return lambda *arguments, **options: self.do(method, *arguments, **options)

    def do(self, action: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """Call an action of the logger's; after its first failure nothing is called any more."""
        if self.lost:
            return None
        try:
            return action(*arguments, **options)
        except Exception as error:  # noqa: BLE001  whatever a server, a disk or a library of others comes up with
            self.lost = True
            say_lost(self.name, error)
            return None

    def close(self, status: str) -> None:
        """The end of the run: ``success`` or ``failed``.  The logger is then as it was given."""
        self.do(self._finalize, status)
        logger = self.logger
        if isinstance(logger, WandbLogger):  # so that the next run in this process starts its own
            self.do(lambda: logger.experiment.finish(exit_code=0 if status == "success" else 1))
        for method in (*_GUARDED, "finalize"):
            vars(logger).pop(method, None)


def say_lost(name: str, error: Exception) -> None:
    """Tell the user that a logger is left out from here on."""
    reason = textwrap.shorten((str(error).splitlines() or [""])[0], 200, placeholder=" ...")
    log.warning(
        "logger %s failed (%s: %s): the run goes on without it, and the run folder has everything", name, type(error).__name__, reason
    )
