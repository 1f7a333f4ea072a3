"""The loggers of one run, from its begin to its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

from lightning.pytorch.loggers import Logger

from grade_lightning.records.folder import RunFolder
from grade_lightning.settings import Settings
from grade_lightning.tracking.end import Ending, tell
from grade_lightning.tracking.made import keeps_adapter, made_loggers
from grade_lightning.tracking.makers import RunFacts
from grade_lightning.training.sweep import sweep_group


class Session:
    """Makes the loggers, tells them the configuration, and closes them with the run's status; only the process that writes has any.

    Args:
        settings: of the run.
        plain: the resolved configuration.
        folder: of the run.
        run_id: the same when a run goes on.
        others: loggers that were handed over.
    """

    def __init__(self, settings: Settings, plain: Mapping[str, Any], folder: RunFolder, run_id: str, others: Sequence[Logger] = ()):
        self._settings, self._plain, self._folder, self._run_id, self._others = settings, plain, folder, run_id, others

    def __enter__(self) -> Session:
        name = f"{self._settings.names.method}-seed{self._settings.seed}-{self._run_id}"
        facts = RunFacts(self._folder.path, name, self._run_id, dict(self._plain), sweep_group())
        self.guards = made_loggers(self._settings.logger, self._others, facts) if self._folder.writes else []
        for logger in self.loggers:
            logger.log_hyperparams(dict(self._plain))
        return self

    @property
    def loggers(self) -> list[Logger]:
        """Those that Lightning is given."""
        return [guard.logger for guard in self.guards]

    def tell(self, results: dict[str, Any]) -> None:
        """What the run ends with."""
        if self.guards:
            tell(self.guards, Ending(self._folder.path, results, self._run_id), keeps_adapter(self._settings.logger))

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for guard in self.guards:
            guard.close("success" if kind is None else "failed")
