"""Where measurements are shown beside the run folder, and the flags of the trainer that are a user's."""

from __future__ import annotations

from typing import ClassVar, Literal

from grade_lightning.settings.fields import Bool, Int, Text, key, settings


@settings
class WandbSettings:
    """Weights & Biases."""

    project: Text = key("where runs are shown", default="grade-lightning")
    entity: Text | None = key("user or team; null = your own", default=None)
    group: Text | None = key("runs of one group stand together; null = the sweep", default=None)
    mode: Literal["online", "offline", "disabled"] | None = key("null = online if logged in, otherwise offline", default=None)
    init_timeout: Int = key("seconds until an unreachable server makes the run go on offline", default=20, ge=1)
    log_adapter: Bool = key("keep the last adapter as an artifact", default=True)


@settings
class TensorBoardSettings:
    """TensorBoard."""

    dir: Text | None = key("where its files go; null = tensorboard in the run folder", default=None)


@settings
class MlflowSettings:
    """MLflow."""

    experiment: Text = key("where runs are shown", default="grade-lightning")
    tracking_uri: Text | None = key(
        "the server, such as http://localhost:5000, without a password (MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD hold that); "
        "null = MLFLOW_TRACKING_URI, or what MLflow takes without it",
        default=None,
    )
    timeout: Int = key("seconds until a request to an unreachable server is given up", default=20, ge=1)
    log_adapter: Bool = key("keep the last adapter as an artifact", default=True)


LOGGERS: dict[str, type] = {
    "grade_lightning.tracking.wandb_logger": WandbSettings,
    "grade_lightning.tracking.tensorboard_logger": TensorBoardSettings,
    "grade_lightning.tracking.mlflow_logger": MlflowSettings,
}

_OURS = "the optimisation is manual, one Lightning epoch is one policy step: "
_ENDS = "use max_steps, or trainer.max_time"
_LIMITS = "use evaluation.val_prompts, evaluation.test_prompts and effective_batch_size"


@settings
class TrainerSettings:
    """Flags of Lightning's trainer that are passed on."""

    REFUSED: ClassVar[dict[str, str]] = {
        "accelerator": "use hardware.accelerator",
        "accumulate_grad_batches": f"{_OURS}use hardware.grad_accumulation, which changes memory and not the update",
        "barebones": "a run without records is none here: use profiler=simple to see where time goes",
        "callbacks": "use the group callbacks",
        "check_val_every_n_epoch": "use evaluation.validate_every",
        "default_root_dir": "use run.dir",
        "devices": "one process has one device: use hardware=ddp under torchrun for several",
        "enable_autolog_hparams": "loggers are given the resolved configuration",
        "enable_checkpointing": "use run.checkpoint_every; the last and the best adapter are always kept",
        "fast_dev_run": "use max_steps=1 with evaluation.val_prompts=8 and evaluation.test=false",
        "gradient_clip_algorithm": f"{_OURS}the global norm is clipped, see optimizer.max_grad_norm",
        "gradient_clip_val": f"{_OURS}use optimizer.max_grad_norm",
        "inference_mode": "evaluation decides that itself",
        "limit_predict_batches": "nothing is predicted: python -m grade_lightning.generate writes continuations",
        "limit_test_batches": _LIMITS,
        "limit_train_batches": _LIMITS,
        "limit_val_batches": _LIMITS,
        "logger": "use the group logger",
        "max_epochs": f"{_OURS}{_ENDS}",
        "max_steps": f"Lightning would count optimizer steps: {_ENDS}",
        "min_epochs": f"{_OURS}{_ENDS}",
        "min_steps": f"Lightning would count optimizer steps: {_ENDS}",
        "model_registry": "adapters are kept in the run folder",
        "num_nodes": "torchrun says so: use hardware=ddp",
        "num_sanity_val_steps": "step 0 is always validated in full",
        "overfit_batches": _LIMITS,
        "plugins": "use hardware.precision and hardware.distributed",
        "precision": "use hardware.precision: the frozen base alone is held in 16 bits, adapters and reward head stay in 32",
        "reload_dataloaders_every_n_epochs": "the prompts of a step are a function of seed and step",
        "strategy": "use hardware.distributed (hardware=ddp) under torchrun",
        "sync_batchnorm": "language models have no batch normalisation",
        "use_distributed_sampler": "the rows of each process are a function of seed and step",
        "val_check_interval": "use evaluation.validate_every",
    }

    profiler: Literal["simple", "advanced", "pytorch"] | None = key("where time goes, written to the run folder", default=None)
    log_every_n_steps: Int = key("policy steps between rows that loggers are given; metrics.csv has every step", default=1, ge=1)
    deterministic: Bool | Literal["warn"] | None = key(
        "torch's deterministic algorithms; warn where there is none; null = as the process has it", default=None
    )
    benchmark: Bool | None = key("cuDNN times its kernels first; null = as the process has it", default=None)
    detect_anomaly: Bool = key("name the operation behind a gradient that is no number; slow", default=False)
    max_time: Text | None = key(
        "DD:HH:MM:SS of training, resumed parts included: the run ends after the step in which they are over, and is validated and tested",
        default=None,
    )
    enable_progress_bar: Bool = key("quiet=true turns the bars off as well", default=True)
    enable_model_summary: Bool = key("show the modules and their sizes", default=False)


# Lightning's own names of its trainer.
TRAINERS: dict[str, type] = {"lightning.Trainer": TrainerSettings, "lightning.pytorch.Trainer": TrainerSettings}
