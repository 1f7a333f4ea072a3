"""Loggers beside the run folder: Weights & Biases, TensorBoard, MLflow, or any Lightning logger; none of them can stop a run."""

from __future__ import annotations

from grade_lightning.tracking.makers import RunFacts, mlflow_logger, tensorboard_logger, wandb_logger

__all__ = ["RunFacts", "mlflow_logger", "tensorboard_logger", "wandb_logger"]
