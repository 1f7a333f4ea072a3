"""What a sweep adds to its runs: one group for loggers, a line a finished run, and at its end those that failed or are left."""

from __future__ import annotations

import atexit
import json
import logging
import os
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from grade_lightning.durations import duration

log = logging.getLogger(__name__)

GROUP = "GRADE_SWEEP"  # environment variable: the workers of every launcher inherit it
PLAN = "GRADE_SWEEP_PLAN"  # as JSON: how many runs there are, where that is known, and the settings that all of them have
FAILED = "error.txt"  # in the folder of a run that failed
MOST = 20  # runs named at the end


def sweep_group() -> str | None:
    """Name under which the runs of this sweep stand together; None outside a sweep."""
    return os.environ.get(GROUP)


class SweepReport(Callback):
    """Names the sweep before its first run, says how each run ended and, when the process ends, which failed and which were not made.

    At exit, because Hydra raises the first failed run's error after the last run, before any callback of its own.
    """

    def __init__(self) -> None:
        self.left: list[str] = []
        self.started = False
        self._job_started = 0.0

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        folder, started = Path(config.hydra.sweep.dir), time.time()
        os.environ[GROUP] = f"{folder.name}-{time.strftime('%Y%m%d-%H%M%S')}"
        self.left = _runs(config)
        os.environ[PLAN] = json.dumps({"runs": _total(config, self.left), "constant": _constant(config)})
        ended = _ended_file(folder)
        atexit.register(lambda: _report(folder, started, self.left if self.started else []))
        atexit.register(lambda: ended.unlink(missing_ok=True))

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called in the process that makes the run, which may be another than the sweep's own."""
        self.started, self._job_started = True, time.time()

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """As above."""
        overrides = list(map(str, job_return.overrides or []))
        if _name(overrides) in self.left:
            self.left.remove(_name(overrides))
        if PLAN in os.environ and job_return.status is not JobStatus.UNKNOWN:
            self._say(config, overrides)

    def _say(self, config: DictConfig, overrides: Sequence[str]) -> None:
        """One line: which run of how many, how it ended, how long the others will take."""
        run, ended = Path(config.run.dir), _ended_file(Path(config.hydra.sweep.dir))
        seconds = time.time() - self._job_started
        results = run / "results.json"
        made = results.exists() and results.stat().st_mtime >= self._job_started  # not found finished, and not failed
        with ended.open("a") as stream:  # runs of parallel processes add to it
            stream.write(f"{time.time()} {seconds} {int(made)}\n")
        lines = [line.split() for line in ended.read_text().splitlines()]
        plan = json.loads(os.environ[PLAN])
        total = plan["runs"] or 0
        of = f" of {total}" if total else ""
        own = " ".join(item for item in overrides if item.split("=", 1)[0] not in plan["constant"]) or run.name
        print(f"run {len(lines)}{of} ({own}): {_outcome(run)}, {duration(seconds)}{_time_left(lines, total)}", flush=True)


def _outcome(run: Path) -> str:
    """How a run ended, in words."""
    if not (run / "results.json").exists():
        failed = run / FAILED
        return f"failed ({textwrap.shorten(failed.read_text(), 160, placeholder=' ...')})" if failed.exists() else "not finished"
    results = json.loads((run / "results.json").read_text())
    last = results["validation"][-1]
    tested = f", test reward {results['test']['reward_mean']:.3f}" if "test" in results else ""
    return f"validation reward {last['reward_mean']:.3f}, KL {last['kl_mean']:.3f}{tested}"


def _time_left(lines: list[list[str]], total: int) -> str:
    """What is left at the rate of the runs that were really made, as parallel as they were; nothing where that is not known."""
    made = [(float(end), float(seconds)) for end, seconds, new in lines if new == "1"]
    left = total - len(lines)
    if not made or left <= 0:
        return ""
    began = min(end - seconds for end, seconds in made)
    passed = max(end for end, _ in made) - began
    return f"; about {duration(left * passed / len(made))} left"


def _ended_file(folder: Path) -> Path:
    """Where the runs of this sweep that have ended are noted while it goes on."""
    return folder / f".ended-{os.environ[GROUP]}"


def _total(config: DictConfig, runs: list[str]) -> int | None:
    """How many runs a sweep makes: a search says so, a plain sweep's are listed; None where only Hydra knows."""
    trials = config.hydra.sweeper.get("n_trials")
    return int(trials) if trials is not None else len(runs) or None


def _name(overrides: Any) -> str:
    return " ".join(map(str, overrides))


def _overrides(config: DictConfig) -> list[Override]:
    return OverridesParser.create().parse_overrides(list(map(str, config.hydra.overrides.task)))


def _constant(config: DictConfig) -> list[str]:
    """Keys that are the same in all runs."""
    return [override.get_key_element() for override in _overrides(config) if not override.is_sweep_override()]


def _runs(config: DictConfig) -> list[str]:
    """The runs of a plain sweep, as their overrides; none where a search decides as it goes, or where only Hydra knows what a pattern
    stands for."""
    if "basic_sweeper" not in str(config.hydra.sweeper._target_):
        return []
    try:
        batches = BasicSweeper.split_arguments(_overrides(config), None)
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
