"""What loggers are told at the end of a run: test results, samples before and after, the training curve, the adapter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from grade_lightning.records.from_folder import by_prompt, metric_columns, pairs, read_samples
from grade_lightning.tracking.guard import Guard

COLUMNS = ("prompt", "before", "after", "reward_before", "reward_after")
SAMPLES = 64


@dataclass
class Ending:
    """What a run leaves to its loggers.

    Attributes:
        folder: of the run.
        results: as in ``results.json``.
        run_id: of the run.
        figure: reward and KL over the policy steps, a matplotlib figure; None where matplotlib is not installed.
    """

    folder: Path
    results: dict[str, Any]
    run_id: str
    figure: Any = field(init=False)

    def __post_init__(self) -> None:
        self.figure = _curve(self.folder, self.results)

    @property
    def metrics(self) -> dict[str, float]:
        """Numbers of the test before and after, as ``initial/NAME`` and ``test/NAME``."""
        splits = [name for name in ("initial", "test") if name in self.results]
        found = {f"{split}/{key}": value for split in splits for key, value in self.results[split].items()}
        return {name: value for name, value in found.items() if isinstance(value, int | float)}

    @property
    def samples(self) -> list[tuple[Any, ...]]:
        """Rows of ``COLUMNS``; none where nothing was tested."""
        kept = read_samples(self.folder)
        found = pairs(by_prompt(kept, "initial"), by_prompt(kept, "test"))[:SAMPLES]
        return [(a["prompt"], a["completion"], b["completion"], a["reward"], b["reward"]) for a, b in found]

    @property
    def adapter(self) -> Path:
        return self.folder / "checkpoints" / "last"


def _curve(folder: Path, results: dict[str, Any]) -> Any:
    """Reward and KL over the policy steps; None without the extra ``report``."""
    try:
        from grade_lightning.reporting.curves import training_curves
    except ImportError:
        return None
    return training_curves(metric_columns((folder / "metrics.csv").read_text()), results["validation"])


def tell(guards: Sequence[Guard], ending: Ending, log_adapter: dict[str, bool]) -> None:
    """Tell every logger what it can show.

    Args:
        log_adapter: by the logger's name, whether it keeps the adapter; a logger of a user's own does not.
    """
    step = ending.results["steps"]
    for guard in guards:
        if ending.metrics:
            guard.logger.log_metrics({"step": step, **ending.metrics}, step=step)
        for kind, show in ((WandbLogger, _wandb), (MLFlowLogger, _mlflow), (TensorBoardLogger, _tensorboard)):
            if isinstance(guard.logger, kind):
                guard.do(show, guard.logger, ending, log_adapter.get(guard.name, False))


def _wandb(logger: WandbLogger, ending: Ending, adapter: bool) -> None:
    import wandb

    run = logger.experiment
    shown: dict[str, Any] = {"step": ending.results["steps"]}
    if ending.samples:
        shown["samples"] = wandb.Table(columns=list(COLUMNS), data=[list(row) for row in ending.samples])
    if ending.figure is not None:
        shown["training_curve"] = wandb.Image(ending.figure)
    run.log(shown)
    if adapter:
        artifact = wandb.Artifact(f"adapter-{ending.run_id}", type="model", metadata={"config_hash": ending.results["config_hash"]})
        for file in sorted(ending.adapter.iterdir()):  # add_dir would say so on the console
            artifact.add_file(str(file))
        run.log_artifact(artifact)


def _mlflow(logger: MLFlowLogger, ending: Ending, adapter: bool) -> None:
    client, run = logger.experiment, str(logger.run_id)
    if ending.samples:
        table = {"columns": list(COLUMNS), "data": [list(row) for row in ending.samples]}
        client.log_dict(run, table, "samples.json")
    if ending.figure is not None:
        client.log_figure(run, ending.figure, "training_curve.png")
    if adapter:
        client.log_artifacts(run, str(ending.adapter), "adapter")


def _tensorboard(logger: TensorBoardLogger, ending: Ending, adapter: bool) -> None:
    writer, step = logger.experiment, ending.results["steps"]
    if ending.samples:
        rows = [COLUMNS, ("---",) * len(COLUMNS), *ending.samples]
        writer.add_text("samples", "\n".join("|".join(["", *map(_cell, row), ""]) for row in rows), step)
    if ending.figure is not None:
        writer.add_figure("training_curve", ending.figure, step)


def _cell(value: Any) -> str:
    """A value in a row of a Markdown table."""
    text = f"{value:.3f}" if isinstance(value, float) else str(value)
    return text.replace("|", "\\|").replace("\n", " ")
