"""Several processes, one effective batch."""

from __future__ import annotations

import os
import shlex
from typing import Any

import psutil
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.tensor import DTensor

LAUNCHED = "GRADE_LAUNCHED"  # environment variable: torchrun's options, from grade_lightning.launch to its processes


class Alone(LightningEnvironment):
    """A process that nothing has launched beside others."""

    @property
    def main_port(self) -> int:
        """Whichever is free when the process opens it: a port looked up before might be another's by then."""
        return 0


class SummedGradients(DDPStrategy):
    """Processes without DistributedDataParallel around the module.

    Each process works on its rows of the effective batch with normalisers of the whole, and the method adds the gradients up
    (:func:`grade_lightning.distributed.sum_gradients`).  DDP would average them at hooks of its own, which knows
    neither the normalisers nor the several backward passes of an adjoint.
    """

    def configure_ddp(self) -> None:
        """Nothing to wrap."""

    def teardown(self) -> None:
        """Leave weights that are shared out where they are: their parts belong to a mesh of devices, and would not come back whole."""
        module = self.lightning_module
        if module is None or not any(isinstance(weight, DTensor) for weight in module.parameters()):
            super().teardown()
            return
        assert self.cluster_environment is not None
        assert self.accelerator is not None
        self.cluster_environment.teardown()
        self.precision_plugin.teardown()
        self.accelerator.teardown()
        self.checkpoint_io.teardown()


def process_of_torchrun() -> tuple[int, int]:
    """(rank, number of processes) as torchrun set them; (0, 1) without it."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def started_with() -> list[str]:
    """The words before a run's own arguments in the command that started this process."""
    if LAUNCHED in os.environ:
        return ["python", "-m", "grade_lightning.launch", *shlex.split(os.environ[LAUNCHED])]
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        return ["python", "-m", "grade_lightning.run"]
    options = ["--standalone", "--nproc-per-node", os.environ["LOCAL_WORLD_SIZE"], "-m", "grade_lightning.run"]
    words = psutil.Process(os.getppid()).cmdline()
    places = [place for place, word in enumerate(words) if word == "torch.distributed.run" or word.endswith("/torchrun")]
    if places and "grade_lightning.run" in words:
        options = words[places[0] + 1 : words.index("grade_lightning.run") + 1]
    return ["torchrun", *options]


def use_own_device(accelerator: str) -> None:
    """Make this process' GPU the current one before anything is loaded."""
    if accelerator == "cuda" and torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))


def trainer_options(accelerator: str, *, distributed: bool) -> dict[str, Any]:
    """Accelerator, devices and strategy of the Lightning trainer."""
    if not distributed:
        # Within a Slurm job Lightning would put checkpoints of its own into the working directory, which the runs of a sweep share.
        return {"accelerator": accelerator, "devices": 1, "plugins": [LightningEnvironment()]}
    local = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    nodes = int(os.environ.get("WORLD_SIZE", "1")) // local
    alone = {} if "RANK" in os.environ else {"plugins": [Alone()]}
    return {
        **alone, "accelerator": accelerator, "devices": local, "num_nodes": nodes,
        "strategy": SummedGradients(process_group_backend="nccl" if accelerator == "cuda" else "gloo"),
    }  # fmt: skip


def resolve_accelerator(accelerator: str) -> str:
    """``auto`` = cuda if there is a GPU for each process of this machine, otherwise cpu."""
    if accelerator != "auto":
        return accelerator
    return "cuda" if torch.cuda.device_count() >= int(os.environ.get("LOCAL_WORLD_SIZE", "1")) else "cpu"
