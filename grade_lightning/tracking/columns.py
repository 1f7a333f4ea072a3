"""What callbacks measure, for ``metrics.csv``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lightning.pytorch.loggers import Logger
from torch import Tensor


class Columns(Logger):
    """Collects what others than the recorder log at a policy step, until the recorder takes it into the step's row.

    It is there in every run, so that callbacks that want a logger work without another one.

    Args:
        folder: of the run.
    """

    def __init__(self, folder: str):
        super().__init__()
        self._folder, self._found = folder, dict[str, float]()

    @property
    def name(self) -> str:
        """None is needed: there is one folder for one run."""
        return ""

    @property
    def version(self) -> str:
        """As above."""
        return ""

    @property
    def save_dir(self) -> str:
        """Where callbacks put files of theirs."""
        return self._folder

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep numbers for the row that comes next."""
        self._found |= {
            name: float(value) for name, value in metrics.items() if name != "epoch" and isinstance(value, int | float | Tensor)
        }

    def log_hyperparams(self, params: Any, *arguments: Any, **options: Any) -> None:
        """The folder has ``config.yaml``."""

    def take(self) -> dict[str, float]:
        """What was collected, which is then forgotten."""
        found, self._found = self._found, {}
        return found
