"""One run from ready-made objects: validate, fit, test once, record."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.loggers import Logger

from grade_lightning.data.module import PromptDataModule
from grade_lightning.records.folder import RunFolder, evaluation_keys
from grade_lightning.step_bar import StepProgressBar
from grade_lightning.tracking.columns import Columns
from grade_lightning.training.interrupt import Interrupt
from grade_lightning.training.lines import Remaining, ValidationLines
from grade_lightning.training.memory import peak
from grade_lightning.training.module import MethodModule
from grade_lightning.training.recorder import StepRecorder, check_checkpoint, save_adapter


@dataclass
class Course:
    """What one run needs.

    Attributes:
        module, data, folder, loggers, callbacks: ready to use.
        description: identifies the run in ``results.json`` (method, seed, protocol, model, data, hash, ...).
        max_steps: policy steps.
        validate_every: policy steps between validations; step 0 and the last step are always validated.
        test: evaluate the test split before and after.
        samples: how many samples of ``initial`` and ``test`` are kept.
        best_by: the measurement at validation that decides which adapter is the best.
        checkpoint_every: policy steps between checkpoints.
        resume: go on from the folder's checkpoint.
        interrupt: what Ctrl-C does.
        trainer_options: accelerator, devices and strategy of the Lightning trainer, and a user's own flags.
        trainer_class: of the trainer.
        quiet: no progress bars, no lines of validations.
        seconds: wall time of the phases so far; the run adds its own.
        started: ``time.perf_counter()`` when the command began.
    """

    module: MethodModule
    data: PromptDataModule
    folder: RunFolder
    description: dict[str, Any]
    max_steps: int
    validate_every: int
    loggers: Sequence[Logger] = ()
    callbacks: Sequence[Callback] = ()
    test: bool = True
    samples: int = 64
    best_by: str = "reward_mean"
    checkpoint_every: int = 10
    resume: bool = False
    interrupt: Interrupt = field(default_factory=Interrupt)
    trainer_options: dict[str, Any] = field(default_factory=lambda: {"accelerator": "cpu", "devices": 1})
    trainer_class: type[L.Trainer] = L.Trainer
    quiet: bool = False
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.perf_counter)

    def run(self) -> dict[str, Any]:
        """Validate at step 0, fit, test the last weights and the initial ones on the same prompts and noise.

        Returns:
            What ``results.json`` holds.
        """
        if self.resume:
            check_checkpoint(self.folder.checkpoint)
        self.data.setup()
        columns = Columns(str(self.folder.path))
        recorder = StepRecorder(
            self.folder, best_by=self.best_by, checkpoint_every=self.checkpoint_every, interrupt=self.interrupt, columns=columns
        )  # fmt: skip
        trainer = self._trainer(recorder, columns)
        if not self.resume:
            self._timed("validation", lambda: trainer.validate(self.module, self.data, verbose=False))
        checkpoint = self.folder.checkpoint if self.resume else None
        self._timed("fit", lambda: trainer.fit(self.module, self.data, ckpt_path=checkpoint, weights_only=True))
        if recorder.validations[-1]["step"] != recorder.step:
            self._timed("validation", lambda: trainer.validate(self.module, self.data, verbose=False))
            recorder.add_to_last_row(self.loggers)
        if self.folder.writes:
            save_adapter(self.module.policy, self.folder.path / "checkpoints" / "last")
        evaluations = self._timed("test", lambda: self._test(trainer, recorder.step)) if self.test else {}
        return self._finish(recorder, evaluations)

    def _trainer(self, recorder: StepRecorder, columns: Columns) -> L.Trainer:
        options = {"enable_progress_bar": True, **self.trainer_options}
        bars = options.pop("enable_progress_bar") and self.folder.writes and not self.quiet
        callbacks: list[Callback] = [*self.callbacks, recorder]
        if self.folder.writes and not self.quiet:
            tested = len(self.data.prompts["test"]) if self.test else 0
            callbacks.append(ValidationLines(recorder, Remaining(self.max_steps, self.validate_every, tested), self.started))
        if bars and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(StepProgressBar("policy steps", self.max_steps))
        return self.trainer_class(
            max_epochs=self.max_steps, check_val_every_n_epoch=self.validate_every, logger=[*self.loggers, columns], callbacks=callbacks,
            enable_checkpointing=any(isinstance(callback, Checkpoint) for callback in callbacks), num_sanity_val_steps=0,
            inference_mode=False, use_distributed_sampler=False, enable_progress_bar=bars, default_root_dir=self.folder.path,
            **{"enable_model_summary": False, "log_every_n_steps": 1, **options},
        )  # fmt: skip

    def _timed(self, name: str, action: Any) -> Any:
        start = time.perf_counter()
        try:
            return action()
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    def _test(self, trainer: L.Trainer, step: int) -> dict[str, Any]:
        evaluations = {}
        for split, initial in (("initial", True), ("test", False)):
            self.module.evaluate_initial = initial
            trainer.test(self.module, self.data, verbose=False)
            prompts = self.module.evaluated
            self.folder.append_samples(split, 0 if initial else step, [prompt.sample() for prompt in prompts[: self.samples]])
            measured = [p.measurements() for p in prompts]
            per_prompt = {"prompt_id": [p.key for p in prompts], **{name: [m[name] for m in measured] for name in measured[0]}}
            evaluations[split] = {**self.module.last_evaluation, "per_prompt": per_prompt}
        self.module.evaluate_initial = False
        return evaluations

    def _finish(self, recorder: StepRecorder, evaluations: dict[str, Any]) -> dict[str, Any]:
        self.seconds["total"] = time.perf_counter() - self.started
        ends = (recorder.validations[0], recorder.validations[-1])
        results = {
            **self.description, "steps": recorder.step, **evaluations,
            "validation": [{key: v[key] for key in ("step", *evaluation_keys(v))} for v in recorder.validations],
            "best_validation": {key: recorder.best[key] for key in dict.fromkeys(("step", "reward_mean", self.best_by))},
            # Before and after on the same prompts and noise: what a paired test needs.
            "validation_per_prompt": {
                "prompt_id": ends[0]["per_prompt"]["prompt_id"],
                "reward": {str(end["step"]): end["per_prompt"]["reward"] for end in ends},
            },
            "seconds": self.seconds,
            "peak_memory_bytes": peak(str(self.trainer_options["accelerator"])),
        }  # fmt: skip
        if recorder.step < self.max_steps:  # by a callback, or the trainer's max_time
            results["planned_steps"] = self.max_steps
        self.folder.write_json("results.json", results)
        return results
