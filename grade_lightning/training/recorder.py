"""What happens around training: the record of each step, and the saved adapters."""

from __future__ import annotations

import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from grade_lightning.distributed import sum_over_processes
from grade_lightning.models.policy import Policy
from grade_lightning.records.folder import RunFolder, metrics_row, validation_cells
from grade_lightning.tracking.columns import Columns
from grade_lightning.training.interrupt import Interrupt
from grade_lightning.training.module import MethodModule


def save_adapter(policy: Policy, folder: Path) -> None:
    """Replace the adapter in ``folder`` as a whole."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    policy.save_adapter(partial)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)


class StepRecorder(Callback):
    """Writes a row of ``metrics.csv`` for each policy step, validation included, and tells the loggers.

    Keeps every validation in ``validations``; saves the best adapter when validation improves and the last one after
    each validation, both in PEFT's layout.  Every few steps it leaves a checkpoint that training can go on from.

    Args:
        folder: of the run.
        best_by: the measurement whose highest validation is the best.
        samples: validation samples kept of each validation.
        checkpoint_every: policy steps between checkpoints; the last step leaves one too.
        interrupt: what Ctrl-C does.
        columns: what other callbacks log, which becomes part of the step's row.

    Attributes:
        step: the last one that was recorded.
    """

    def __init__(
        self,
        folder: RunFolder,
        *,
        best_by: str = "reward_mean",
        samples: int = 16,
        checkpoint_every: int = 10,
        interrupt: Interrupt | None = None,
        columns: Columns | None = None,
    ):
        self.folder, self.best_by, self.samples, self.checkpoint_every = folder, best_by, samples, checkpoint_every
        self.interrupt = interrupt or Interrupt()
        self.validations: list[dict[str, Any]] = []
        self._fresh: dict[str, Any] | None = None
        self.step, self.columns = 0, columns
        self._stopped = False  # before the last planned step
        self._started = 0.0

    @property
    def best(self) -> dict[str, Any]:
        """The validation with the highest mean of ``best_by``; the first of equals."""
        return max(self.validations, key=lambda validation: validation[self.best_by])

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupt.listen()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupt.listen()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupt.listen()
        self.interrupt.begin_steps()
        if self._stopped:  # of a run that goes on after it was ended
            trainer.should_stop = True

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.interrupt.end_steps()

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        self._started = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert isinstance(pl_module, MethodModule)
        pl_module.step_metrics["seconds"] = time.perf_counter() - self._started

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MethodModule)
        self.record_validation(pl_module, trainer.current_epoch + 1 if trainer.state.fn == "fit" else self.step)
        if self.step == 0 and trainer.state.fn == "validate":
            self._tell(trainer.loggers, 0, validation_cells(self.validations[-1]))

    def record_validation(self, module: MethodModule, step: int) -> None:
        """Take over the module's last evaluation as the validation of ``step``."""
        per_prompt = {"prompt_id": [p.key for p in module.evaluated], "reward": [p.reward for p in module.evaluated]}
        self._fresh = {"step": step, **module.last_evaluation, "per_prompt": per_prompt}
        self.validations.append(self._fresh)
        self.folder.append_samples("validation", step, [prompt.sample() for prompt in module.evaluated[: self.samples]])
        if not self.folder.writes:
            return
        checkpoints = self.folder.path / "checkpoints"
        checkpoints.mkdir(exist_ok=True)
        save_adapter(module.policy, checkpoints / "last")
        if self.best is self._fresh:
            save_adapter(module.policy, checkpoints / "best")

    def add_to_last_row(self, loggers: Sequence[Logger]) -> None:
        """The last step's validation, where it came after its row was written."""
        cells, step = validation_cells(self.validations[-1]), self.validations[-1]["step"]
        self.folder.amend_metrics(step, cells)
        self._tell(loggers, step, cells)

    def _tell(self, loggers: Sequence[Logger], step: int, row: Mapping[str, Any]) -> None:
        told = {"step": step, **{name: value for name, value in row.items() if value != ""}}
        for logger in loggers:
            if logger is not self.columns:
                logger.log_metrics(told, step=step)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, MethodModule)
        step = trainer.current_epoch + 1
        fresh = self._fresh if self._fresh is not None and self._fresh["step"] == step else None
        row = metrics_row(step, pl_module.step_metrics, fresh, next(iter(self.validations), None))
        row |= {} if self.columns is None else self.columns.take()
        self.folder.append_metrics(row)
        self.step, self._stopped = step, trainer.should_stop
        last = step == trainer.max_epochs or self._stopped
        if fresh is not None or last or step % trainer.log_every_n_steps == 0:  # type: ignore[attr-defined]
            self._tell(trainer.loggers, step, row)
        wanted = sum_over_processes(float(self.interrupt.wanted)) > 0
        if step % self.checkpoint_every == 0 or last or wanted:
            self._save_checkpoint(trainer)
        if wanted:
            self.interrupt.stop()

    # -- going on after a kill -----------------------------------------------------------------------------------------

    def _save_checkpoint(self, trainer: L.Trainer) -> None:
        """Weights, optimizer, step counter, the method's own state and the validations so far; no random state, because all
        randomness is a function of (seed, step)."""
        partial = self.folder.checkpoint.with_suffix(".partial")
        trainer.save_checkpoint(partial, weights_only=False)
        if self.folder.writes:
            partial.replace(self.folder.checkpoint)

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations, "step": self.step, "stopped": self._stopped}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations, self.step = list(state_dict["validations"]), state_dict["step"]
        self._stopped = state_dict.get("stopped", False)
        self.folder.rewind(self.step, {v["step"]: min(self.samples, len(v["per_prompt"]["prompt_id"])) for v in self.validations})


def check_checkpoint(file: Path) -> None:
    """Raise ValueError for a checkpoint that cannot be read: training could not go on from it."""
    try:
        torch.load(file, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, ValueError, LookupError, UnpicklingError) as error:
        if "Unsupported global" in str(error):
            raise ValueError(
                f"{file} holds an object that is no tensor and no plain value, of a callback's state_dict: training can go on from it "
                f"without that callback alone ({str(error).splitlines()[0][:200]})"
            ) from error
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise ValueError(
            f"{file} is damaged ({reason}): bring it back, or remove {file} and give the same command again, which then begins with "
            "the first step"
        ) from error
