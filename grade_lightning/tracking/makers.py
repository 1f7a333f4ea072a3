"""The loggers that have settings of their own."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import MLFlowLogger, TensorBoardLogger, WandbLogger

from grade_lightning.records.text import yaml_text
from grade_lightning.settings.tracking import MlflowSettings, TensorBoardSettings, WandbSettings

log = logging.getLogger(__name__)

RUN_TAG = "grade_lightning.run_id"  # of a run of MLflow: under which a run that goes on finds itself again


@dataclass(frozen=True)
class RunFacts:
    """What a logger is told of a run when it is made.

    Attributes:
        folder: of the run.
        name: of the run.
        run_id: the same when a run goes on after a stop.
        config: resolved.
        group: name of the sweep; None outside one.
    """

    folder: Path
    name: str
    run_id: str
    config: Mapping[str, Any]
    group: str | None = None


def wandb_logger(run: RunFacts, **values: Any) -> WandbLogger:
    """Weights & Biases, offline where the server cannot be reached.

    Args:
        run: which one.
        **values: of :class:`~grade_lightning.settings.tracking.WandbSettings`.
    """
    import wandb

    settings = WandbSettings(**values)
    wandb.setup(settings=wandb.Settings(silent=True))
    mode = settings.mode or os.environ.get("WANDB_MODE") or ("online" if wandb.login(prompt=False, verify=False) else "offline")
    options: dict[str, Any] = {
        "project": settings.project, "entity": settings.entity, "group": settings.group or run.group, "name": run.name, "id": run.run_id,
        "resume": "allow", "config": dict(run.config), "dir": str(run.folder),
        "settings": wandb.Settings(init_timeout=settings.init_timeout, silent=True),
    }  # fmt: skip
    try:
        made = wandb.init(mode=mode, **options)  # type: ignore[arg-type]
    except (wandb.errors.CommError, wandb.errors.UsageError) as error:
        log.warning("Weights & Biases cannot be reached (%s): logging offline; upload later with `wandb sync`", error)
        made = wandb.init(mode="offline", **options)
    if mode == "offline":
        log.info("Weights & Biases logs offline to %s; upload with `wandb sync`", run.folder / "wandb")
    made.define_metric("*", step_metric="step")
    return WandbLogger(experiment=made)


def tensorboard_logger(run: RunFacts, **values: Any) -> TensorBoardLogger:
    """TensorBoard's files, in the run folder unless the settings say otherwise.

    Args:
        run: which one.
        **values: of :class:`~grade_lightning.settings.tracking.TensorBoardSettings`.
    """
    settings = TensorBoardSettings(**values)
    folder = run.folder / "tensorboard" if settings.dir is None else Path(settings.dir).expanduser() / run.name
    made = TensorBoardLogger(folder, name="", version="", default_hp_metric=False)
    made.experiment.add_text("config", f"```yaml\n{yaml_text(run.config)}\n```", 0)
    return made


def mlflow_logger(run: RunFacts, **values: Any) -> MLFlowLogger:
    """An MLflow server, or its local store; a run that goes on continues its MLflow run.

    Args:
        run: which one.
        **values: of :class:`~grade_lightning.settings.tracking.MlflowSettings`.
    """
    settings = MlflowSettings(**values)
    # MLflow would try for minutes; a value that the user has set wins.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(settings.timeout))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "2")
    import mlflow

    uri = settings.tracking_uri or mlflow.get_tracking_uri()
    tags = {RUN_TAG: run.run_id, **({} if run.group is None else {"sweep": run.group})}
    known = _mlflow_run(mlflow.MlflowClient(uri), settings.experiment, run.run_id)
    made = MLFlowLogger(settings.experiment, run_name=run.name, tracking_uri=uri, tags=tags, run_id=known)
    if known is not None:
        made.experiment.update_run(known, status="RUNNING")
    assert made.run_id is not None  # made now, so that a server that is away is noticed now
    return made


def _mlflow_run(client: Any, experiment: str, run_id: str) -> str | None:
    """MLflow's own id of the run that an earlier attempt made."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    runs = client.search_runs([found.experiment_id], filter_string=f"tags.`{RUN_TAG}` = '{run_id}'", max_results=1)
    return runs[0].info.run_id if runs else None
