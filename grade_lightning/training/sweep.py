"""What a sweep adds to its runs: one W&B group, and the names of the runs that failed."""

from __future__ import annotations

import atexit
import logging
import os
import time
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)

GROUP = "GRADE_SWEEP"  # environment variable: the workers of every launcher inherit it
FAILED = "error.txt"  # in the folder of a run that failed


def sweep_group() -> str | None:
    """Name under which the runs of this sweep stand together; None outside a sweep."""
    return os.environ.get(GROUP)


class SweepReport(Callback):
    """Names the sweep before its first run and, when the process ends, the runs that failed.

    At exit, because Hydra raises the first failed run's error after the last run, before any callback of its own.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, started = Path(config.hydra.sweep.dir), time.time()
        os.environ[GROUP] = f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        atexit.register(_report, folder, started)


def _report(folder: Path, started: float) -> None:
    failed = sorted(file for file in folder.glob(f"**/{FAILED}") if file.stat().st_mtime >= started)
    if failed:
        print(f"\n{len(failed)} run(s) of this sweep failed; running the sweep again repeats only these:")
        for file in failed:
            print(f"  {file.parent}: {file.read_text().splitlines()[0]}")
