"""Weights & Biases, without letting it stop a run."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import Logger, WandbLogger

from grade_lightning.settings.run import WandbSettings

log = logging.getLogger(__name__)


def wandb_logger(
    folder: Path,
    *,
    name: str,
    run_id: str,
    config: Any,
    settings: WandbSettings,
    group: str | None = None,
) -> WandbLogger:
    """A logger that goes on offline where the server cannot be reached.

    Args:
        folder: of the run; the W&B files go there.
        name: of the run.
        run_id: the same when a run goes on after a stop.
        config: resolved, logged as it is.
        settings: where the run is shown, whether online, how long to wait for the server.
        group: runs of one group stand together.
    """
    import wandb

    mode = settings.mode or ("online" if wandb.api.api_key else "offline")
    options: dict[str, Any] = {
        "project": settings.project, "entity": settings.entity, "group": group, "name": name, "id": run_id, "resume": "allow",
        "config": config, "dir": str(folder), "settings": wandb.Settings(init_timeout=settings.init_timeout, silent=True),
    }  # fmt: skip
    try:
        run = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        log.warning("Weights & Biases cannot be reached (%s): logging offline; upload later with `wandb sync`", error)
        run = wandb.init(mode="offline", **options)
    if mode == "offline":
        log.info("Weights & Biases logs offline to %s; upload with `wandb sync`", folder / "wandb")
    run.define_metric("*", step_metric="step")
    return WandbLogger(experiment=run)


def finish(loggers: Sequence[Logger]) -> None:
    """Close W&B runs, so that the next run in this process starts its own."""
    for logger in loggers:
        if isinstance(logger, WandbLogger):
            logger.experiment.finish()
