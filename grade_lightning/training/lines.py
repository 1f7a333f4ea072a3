"""One line on the console for each validation: what it measured, and how long the command will take."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import mean
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from grade_lightning.durations import duration
from grade_lightning.measurements import is_own, kind_and_name
from grade_lightning.training.recorder import StepRecorder

log = logging.getLogger(__name__)

_RECENT = 20  # policy steps whose mean says how long the next ones take


@dataclass
class Remaining:
    """How long a command still takes, from what its steps and validations took.

    Attributes:
        max_steps: policy steps.
        validate_every: policy steps between validations.
        test_prompts: prompts of the test, which the initial policy answers too; 0 without a test.
    """

    max_steps: int
    validate_every: int
    test_prompts: int = 0
    _steps: deque[float] = field(default_factory=lambda: deque(maxlen=_RECENT))
    _validation: tuple[float, int] | None = None

    def step_took(self, seconds: float) -> None:
        """A policy step, its validation left out."""
        self._steps.append(seconds)

    def validation_took(self, seconds: float, prompts: int) -> None:
        """A validation of this many prompts."""
        self._validation = seconds, prompts

    def seconds(self, step: int) -> float | None:
        """Expected after this policy step, the validation that follows it included in what is done; None before a step was measured."""
        if self._validation is None or (not self._steps and step < self.max_steps):
            return None
        validation, prompts = self._validation
        ahead = range(step + 1, self.max_steps + 1)
        validations = sum(1 for other in ahead if other % self.validate_every == 0 or other == self.max_steps)
        steps = len(ahead) * mean(self._steps) if ahead else 0.0
        return steps + validations * validation + 2 * self.test_prompts * validation / max(prompts, 1)


def line(step: int, max_steps: int, measured: Mapping[str, Any], passed: float, left: float | None) -> str:
    """The line.

    Args:
        step: policy step after which it was validated.
        max_steps: policy steps of the run.
        measured: the validation.
        passed: seconds since the command began.
        left: seconds that it still takes; None where nothing is known yet.
    """
    parts = [f"validation reward {measured['reward_mean']:.3f}", f"KL {measured['kl_mean']:.3f} nats/token"]
    judges = {"judge": "judge_mean"} if "judge_mean" in measured else {}
    judges |= {f"judge {kind_and_name(name)[1]}": name for name in measured if is_own(name) and kind_and_name(name)[0] == "judge"}
    parts += [f"{title} {measured[name]:.3f}" for title, name in judges.items()]
    times = f"{duration(passed)} so far" + ("" if left is None else f", about {duration(left)} left")
    return f"step {step}/{max_steps}: {', '.join(parts)}; {times}"


class ValidationLines(Callback):
    """Logs the line after each validation.

    Args:
        recorder: which stands before it and has the validation.
        remaining: is told what everything takes.
        started: ``time.perf_counter()`` when the command began.
    """

    def __init__(self, recorder: StepRecorder, remaining: Remaining, started: float):
        self.recorder, self.remaining, self.started = recorder, remaining, started
        self._began = 0.0

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.remaining.step_took(pl_module.step_metrics["seconds"])

    def on_validation_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        now, measured = time.perf_counter(), self.recorder.validations[-1]
        self.remaining.validation_took(now - self._began, measured["n"])
        left = self.remaining.seconds(measured["step"])
        log.info("%s", line(measured["step"], self.remaining.max_steps, measured, now - self.started, left))
