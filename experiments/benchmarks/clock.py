"""Seconds of work on a device, which a GPU goes on with after the call has returned."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch


def wait(device: str) -> None:
    """Until the device has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(work: Callable[[], Any], device: str, *, rounds: int, warm: bool = True) -> list[float]:
    """Of each call, after one that warms up unless ``warm`` is False."""
    if warm:
        work()
    found = []
    for _ in range(rounds):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        found.append(time.perf_counter() - start)
    return found
