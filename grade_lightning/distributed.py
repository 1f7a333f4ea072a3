"""The few collective operations that make any number of processes one effective batch; without processes they do nothing."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def leave() -> None:
    """Where several processes work together, end this one here and with success; does nothing in one process.

    What is registered for the end of an interpreter is done, but none is torn down: beside gloo's threads that aborts now and then
    ("terminate called without an active exception", torch 2.13), whether their group was destroyed before or not.
    """
    if world()[1] > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def world() -> tuple[int, int]:
    """(rank, number of processes)."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def my_rows(total: int) -> slice:
    """The rows of an effective batch that this process works on.

    Raises:
        ValueError: fewer rows than processes.
    """
    rank, size = world()
    if total < size:
        raise ValueError(f"effective_batch_size={total} cannot be split over {size} processes: raise it or start fewer")
    return slice(rank * total // size, (rank + 1) * total // size)


def parts_of_each(parts: int, processes: int) -> int:
    """How many of some equal parts of an effective batch each process works on, so that there are at least as many in all."""
    return -(-parts // processes)


def sum_over_processes(value: float) -> float:
    """The sum of what each process holds."""
    if world()[1] == 1:
        return value
    total = torch.tensor(value, dtype=torch.float64, device=_device())
    dist.all_reduce(total)
    return float(total)


def any_process(flag: bool) -> bool:
    """Whether it is true for any of the processes."""
    return sum_over_processes(float(flag)) > 0


def sum_tensor(tensor: Tensor) -> Tensor:
    """The sum of what each process holds, where it lay; a new tensor."""
    if world()[1] == 1:
        return tensor.clone()
    total = tensor.detach().clone().to(_device())
    dist.all_reduce(total)
    return total.to(tensor.device)


def gather_rows(tensor: Tensor) -> Tensor:
    """Rows of all processes in order.  [b, ...] -> [B, ...], without gradients."""
    return torch.cat([part.to(tensor.device) for part in gather_objects(tensor.detach().cpu())]) if world()[1] > 1 else tensor.detach()


def gather_objects(value: Any) -> list[Any]:
    """What each process holds, in order of rank."""
    size = world()[1]
    if size == 1:
        return [value]
    gathered: list[Any] = [None] * size
    dist.all_gather_object(gathered, value)
    return gathered


def sum_gradients(weights: Iterable[nn.Parameter]) -> None:
    """Add up the gradients of all processes, in one message."""
    if world()[1] == 1:
        return
    with_gradient = [weight for weight in weights if weight.grad is not None]
    flat = torch.cat([weight.grad.flatten() for weight in with_gradient])  # type: ignore[union-attr]
    dist.all_reduce(flat)
    for weight, part in zip(with_gradient, flat.split([weight.numel() for weight in with_gradient]), strict=True):
        weight.grad.copy_(part.view_as(weight))  # type: ignore[union-attr]


def is_of_a_broken_connection(error: RuntimeError) -> bool:
    """Whether a collective operation failed because a process is gone."""
    return isinstance(error, dist.DistError) or any(name in str(error) for name in ("gloo/transport", "Connection closed by peer", "NCCL"))


def _device() -> torch.device:
    return torch.device("cuda" if dist.get_backend() == "nccl" else "cpu")
