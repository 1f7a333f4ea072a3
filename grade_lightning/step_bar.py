"""Lightning's progress bar as one bar over all steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ProgressBar

from grade_lightning.progress import bar


class StepProgressBar(ProgressBar):
    """One bar over all steps of a fit, with the values a module logs with ``prog_bar=True``; one for each evaluation outside it.

    Args:
        description: shown before the bar.
        total: steps.
    """

    def __init__(self, description: str, total: int):
        super().__init__()
        self.description, self.total = description, total
        self._bar: Any = None

    def disable(self) -> None:
        """Required by Lightning; this bar is silenced by its absence."""

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        # After a resume Lightning's batch counter already stands at the steps made.
        done = trainer.fit_loop.epoch_progress.current.completed
        self._bar = bar(total=self.total, initial=done, desc=self.description, unit="step")

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        shown = self.get_metrics(trainer, pl_module)
        self._bar.set_postfix_str(_short(shown), refresh=False)
        self._bar.update(1)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar.close()

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._start_evaluation(trainer, "validation", trainer.num_val_batches)

    def on_validation_batch_end(self, trainer: L.Trainer, *_: Any, **__: Any) -> None:
        if trainer.state.fn == "validate":
            self._bar.update(1)

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if trainer.state.fn == "validate":
            self._bar.close()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._start_evaluation(trainer, "test", trainer.num_test_batches)

    def on_test_batch_end(self, *_: Any, **__: Any) -> None:
        self._bar.update(1)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._bar.close()

    def _start_evaluation(self, trainer: L.Trainer, description: str, batches: Sequence[int | float]) -> None:
        self._bar = bar(total=int(sum(batches)), desc=description, unit="batch")

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.close()


def _short(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:.3g}" for name, value in metrics.items() if isinstance(value, int | float))
