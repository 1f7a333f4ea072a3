"""A resumable queue of runs: a cell with results is skipped, one that was interrupted goes on from its checkpoint.

Finished runs are added, without weights and without paths, to the table file of their study.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf

from grade_lightning.records.from_folder import read_folder
from grade_lightning.records.identity import ADDED
from grade_lightning.records.leaves import add_leaves, read_leaves
from grade_lightning.records.study_table import Record, add, read_table, run_keys
from grade_lightning.records.text import finite
from grade_lightning.training.environment import environment

REPOSITORY = Path(__file__).parents[1]
OUTPUTS = REPOSITORY / "outputs"  # what is derived from records; git ignores it


def ran_with(record: Record, override: str) -> bool:
    """Whether a run had what an override says, by its command or, but for choices of groups, by what was the default then."""
    if override in record.environment["command"]:
        return True
    key, value = override.split("=", 1)
    unknown = object()
    found = OmegaConf.select(OmegaConf.create(dict(record.config)), key, default=ADDED.get(key, unknown))
    return found is not unknown and found == yaml.safe_load(value)


def keep_measured(records: Path, leaf: str, find: Callable[[], Mapping[str, Any]]) -> None:
    """Measure what a study's file of measurements does not have yet, and keep it there with the environment."""
    if leaf not in read_leaves(records):
        add_leaves(records, leaf, finite({**find(), "environment": environment()}))


@dataclass(frozen=True)
class Cell:
    """One run of a study.

    Attributes:
        records: the study's table file. part, name: of the run in it. overrides: of the run's configuration.
    """

    records: Path
    part: str
    name: str
    overrides: tuple[str, ...]

    @property
    def finished(self) -> bool:
        """Whether its run is in the table."""
        return (self.part, self.name) in run_keys(self.records)


def study_arguments(description: str, name: str, parts: Sequence[str]) -> argparse.Namespace:
    """The command line that studies share; without ``--report`` it has ``data`` and ``model``."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder with IMDB as Parquet")
    parser.add_argument("--model", help="folder of the language model")
    parser.add_argument("--report", action="store_true", help="run nothing: write the report of the committed records")
    parser.add_argument("--work", type=Path, default=Path("multirun") / name, help="where runs are made")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once, one thread each")
    parser.add_argument("--parts", nargs="+", choices=parts, default=list(parts))
    chosen = parser.parse_args()
    if not chosen.report and not (chosen.data and chosen.model):
        parser.error("--data and --model name what the study runs on (or --report alone)")
    return chosen


class Queue:
    """Runs cells, some at once, and keeps their records.

    Args:
        common: overrides of all runs.
        data, model: folders; records have IMDB_FOLDER and LM_FOLDER in their place.
        work: where runs are made.
    """

    def __init__(self, common: tuple[str, ...], data: str, model: str, work: Path):
        self.common = common
        data, model, work = (str(Path(path).expanduser().resolve()) for path in (data, model, work))
        self.paths = (f"data.path={data}", f"model.path={model}")
        self.hidden = {data: "IMDB_FOLDER", model: "LM_FOLDER", work: "multirun", str(REPOSITORY): "."}
        self.work = Path(work)

    @property
    def environment(self) -> dict[str, str]:
        """Of a run: one thread."""
        return {**os.environ, "OMP_NUM_THREADS": "1"}

    def without_paths(self, text: str) -> str:
        """The folders of this machine under the names that stand for them."""
        for path in sorted(self.hidden, key=len, reverse=True):
            text = text.replace(path, self.hidden[path])
        return text

    def command(self, cell: Cell, folder: Path) -> list[str]:
        """What makes a cell's run in a folder."""
        return [sys.executable, "-m", "grade_lightning.run", *self.common, *self.paths, *cell.overrides, f"run.dir={folder}"]

    def call(self, command: Sequence[str], folder: Path) -> int:
        """The exit status of a command whose output goes to ``output.log`` of a folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "output.log").open("a") as log:
            return subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False, env=self.environment).returncode

    def measure(self, entry: str, folder: Path, *arguments: str) -> bool:
        """Run an entry of the package on the study's data and model, into a folder; whether it could be done is printed where it could
        not."""
        command = [sys.executable, "-m", f"grade_lightning.{entry}", *arguments, *self.paths, f"out={folder}"]
        failed = self.call(command, folder) != 0
        if failed:
            print(f"{folder.parent.name}/{folder.name}: {entry} failed, see {folder / 'output.log'}", flush=True)
        return not failed

    def run_all(self, cells: list[Cell], jobs: int) -> None:
        """Run what has no record yet, ``jobs`` at once."""
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(self.run, cells))

    def run(self, cell: Cell) -> None:
        if cell.finished:
            self._check(cell)
            return
        folder, start = self.work / cell.part / cell.name, time.perf_counter()
        if self.call(self.command(cell, folder), folder):
            print(f"{cell.part}/{cell.name} failed, see {folder / 'output.log'}", flush=True)
            return
        try:
            add(cell.records, read_folder(folder, cell.part, cell.name, without_paths=self.without_paths))
        except (OSError, ValueError) as error:  # the other cells go on; the folder stays, so that nothing is lost
            print(f"{cell.part}/{cell.name} is finished but was not kept ({error}): run the study again to keep it", flush=True)
            return
        last = json.loads((folder / "results.json").read_text())["validation"][-1]
        seconds = time.perf_counter() - start
        print(f"{cell.part}/{cell.name}: validation {last['reward_mean']:.3f} at KL {last['kl_mean']:.2f}, {seconds:.0f} s", flush=True)

    def _check(self, cell: Cell) -> None:
        """Say so where a record was made by other settings than the cell's."""
        (record,) = read_table(cell.records, part=cell.part, name=cell.name)
        missing = [override for override in (*self.common, *cell.overrides) if not ran_with(record, override)]
        if missing:
            without = ", ".join(missing)
            print(f"{cell.part}/{cell.name}: its record was made without {without}; give the cell another name to run it anew", flush=True)
