"""The side of a case that is measured: it updates whenever a line comes in, and answers with a line."""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

import psutil
import torch

from experiments.benchmarks import clock

MARK = "measured: "


def answer(**found: Any) -> None:
    """Tell the side that measures."""
    print(MARK + json.dumps(found), flush=True)


def serve(update: Callable[[], dict[str, float]], device: str) -> None:
    """Warm up, say so, and update for each line of standard input.

    Answers ``seconds`` of the update, ``peak`` (bytes, so far), ``memory`` (the peak minus what was resident before the first
    update), and the adjoint's ``hops`` and ``first_ratio`` where there is one.
    """
    cuda = device == "cuda"
    resident = torch.cuda.memory_allocated() if cuda else psutil.Process().memory_info().rss
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    update()
    answer()
    for _ in sys.stdin:
        start = time.perf_counter()
        found = update()
        clock.wait(device)
        seconds = time.perf_counter() - start
        peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        answer(seconds=seconds, memory=peak - resident, peak=peak, hops=found.get("hops"), first_ratio=found.get("first_ratio"))
