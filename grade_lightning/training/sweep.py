"""What a sweep adds to its runs: one W&B group, and at its end the runs that failed and those that are left."""

from __future__ import annotations

import atexit
import logging
import os
import time
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

log = logging.getLogger(__name__)

GROUP = "GRADE_SWEEP"  # environment variable: the workers of every launcher inherit it
FAILED = "error.txt"  # in the folder of a run that failed
MOST = 20  # runs named at the end


def sweep_group() -> str | None:
    """Name under which the runs of this sweep stand together; None outside a sweep."""
    return os.environ.get(GROUP)


class SweepReport(Callback):
    """Names the sweep before its first run and, when the process ends, the runs that failed and those that were not made.

    At exit, because Hydra raises the first failed run's error after the last run, before any callback of its own.
    """

    def __init__(self) -> None:
        self.left: list[str] = []
        self.started = False

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, started = Path(config.hydra.sweep.dir), time.time()
        os.environ[GROUP] = f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        atexit.register(lambda: _report(folder, started, self.left if self.started else []))
        self.left = _runs(config)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called in the sweep's own process by the launcher that runs there."""
        self.started = True

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """As above."""
        name = _name(job_return.overrides or [])
        if name in self.left:
            self.left.remove(name)


def _name(overrides: Any) -> str:
    return " ".join(map(str, overrides))


def _runs(config: DictConfig) -> list[str]:
    """The runs of a plain sweep in this process, as their overrides; none where a search decides as it goes, where runs are made elsewhere,
    or where only Hydra knows what a pattern stands for."""
    plain = "basic_sweeper" in str(config.hydra.sweeper._target_) and "basic_launcher" in str(config.hydra.launcher._target_)
    if not plain:
        return []
    try:
        overrides = OverridesParser.create().parse_overrides(list(map(str, config.hydra.overrides.task)))
        batches = BasicSweeper.split_arguments(overrides, None)
    except HydraException:  # a pattern such as glob(*), which needs the configuration's folder
        return []
    return [_name(run) for batch in batches for run in batch]


def _report(folder: Path, started: float, left: list[str]) -> None:
    failed = sorted(file for file in folder.glob(f"**/{FAILED}") if file.stat().st_mtime >= started)
    if failed:
        print(f"\n{len(failed)} run(s) of this sweep failed; running the sweep again repeats only these:")
        for file in failed:
            print(f"  {file.parent}: {file.read_text().splitlines()[0]}")
    if left:
        print(f"\n{len(left)} run(s) of this sweep are left; running the sweep again goes on with them:")
        for name in left[:MOST]:
            print(f"  {name}")
        if len(left) > MOST:
            print(f"  and {len(left) - MOST} more")
