"""Folders, commands and disks of a storm, and what a run left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.storm.faults import COLD, METHODS
from tests.storm.forked import Forked, Request
from tests.training.test_processes import results, rows

# All of a run, as small as it can be: what its numbers are worth does not matter here.
TINY = [
    "data.source.train_rows=700", "data.source.test_rows=12", "data.source.unsupervised_rows=150", "data.reward_rows=200",
    "data.policy_rows=40", "data.validation_rows=8", "max_steps=5", "max_new_tokens=6", "effective_batch_size=8", "rollout.top_k=32",
    "rollout.min_new_tokens=2", "run.checkpoint_every=2", "evaluation.validate_every=2", "model.pretrain.vocab_size=400",
    "model.pretrain.hidden_size=32", "model.pretrain.layers=2", "model.pretrain.heads=2", "model.pretrain.kv_heads=1",
    "model.pretrain.mlp_size=64", "model.pretrain.batch_tokens=1024", "model.pretrain.lr=5e-3", "model.pretrain.validation_rows=10",
]  # fmt: skip
HEAD = ["reward.head.heldout_rows=0", "reward.head.epochs=10"]
OF_METHODS = {
    "hybrid": ["method.completions_per_prompt=2", *HEAD],
    "residual": ["reward=surrogate", "reward.of.function=vowels_of_storm:score", "reward.least=4"],
}
ADAPTERS = ("checkpoints/last/adapter_model.safetensors", "checkpoints/best/adapter_model.safetensors")


@dataclass
class Outcome:
    """How a command ended: its exit status, what it said, and the last phase that it had entered when a signal came."""

    status: int
    output: str
    reached: str = "ended"

    @property
    def traceback(self) -> bool:
        return "Traceback" in self.output or "Logging error" in self.output


@dataclass(frozen=True)
class Twin:
    """An undisturbed run.

    Attributes:
        left: what it left behind. marks: (seconds, phase) in order. size: bytes of its folder.
        cold: one that began with an empty cache, which has had all phases.
    """

    left: dict[str, Any]
    marks: list[tuple[float, str]]
    size: int
    cold: Twin | None = None

    def seconds(self, phase: str) -> float:
        """From the first mark of a phase to that of the next one; all steps after the first are one phase."""
        if phase in COLD and self.cold is not None:
            return self.cold.seconds(phase)
        phases = [(at, name) for at, name in self.marks if name != "change"]
        begin = next(index for index, (_, name) in enumerate(phases) if name == phase)
        end = next((at for at, name in phases[begin:] if name != phase), phases[begin][0] + 0.1)
        return end - phases[begin][0]

    @property
    def changes(self) -> int:
        """Of files."""
        return sum(name == "change" for _, name in self.marks)


class Sandbox:
    """A folder for one run and its cache.

    Args:
        root: new folder. method: of the run. server: starts commands.
        cache: copied as the run's cache; None = an empty one.
    """

    def __init__(self, root: Path, method: str, server: Forked, cache: Path | None):
        assert method in METHODS
        self.root, self.method, self.server = root, method, server
        self.run, self.cache, self.marks = root / "run", root / "cache", root / "marks"
        root.mkdir(parents=True)
        (root / "vowels_of_storm.py").write_text(
            "def score(completions, **_): return [sum(c in 'aeiou' for c in t) / 9 for t in completions]\n"
        )
        if cache is not None:
            shutil.copytree(cache, self.cache)

    def start(self, *, at: int | None = None, number: int = 0) -> int:
        """Start the command, the same each time.  -> its process."""
        arguments = [*TINY, *OF_METHODS.get(self.method, HEAD), f"method={self.method}", f"run.dir={self.run}"]
        watched = [str(self.run), str(self.cache)]
        return self.server.start(
            Request(arguments, str(self.root), str(self.root / "output"), str(self.cache), str(self.marks), at, number, watched)
        )

    def end(self) -> Outcome:
        """Wait for it."""
        status = self.server.ended(120)
        assert status is not None, "the command does not end"
        return Outcome(status, (self.root / "output").read_text(errors="replace"))

    def command(self, **options: Any) -> Outcome:
        """Start and wait."""
        self.start(**options)
        return self.end()

    def interrupted(self, phase: str, seconds: float, number: int, *, times: int = 1) -> Outcome:
        """A signal so many seconds after a phase has begun for the so-many-th time."""
        process = self.start()
        begun = time.monotonic()
        while sum(name == phase for _, name in self.seen()) < times and time.monotonic() < begun + 60 and _alive(process):
            time.sleep(0.002)
        time.sleep(seconds)
        if not _alive(process):
            return self.end()
        reached = [name for _, name in self.seen() if name != "change"][-1]
        with suppress(ProcessLookupError):  # it may end at this very moment
            os.kill(process, number)
        return replace(self.end(), reached=reached)

    def interrupted_at(self, change: int, number: int) -> Outcome:
        """A signal before the so-many-th change of a file."""
        self.start(at=change, number=number)
        done, names, left = self.end(), ["start"], change
        for _, name in self.seen():
            left -= name == "change"
            if left == 0:
                break
            names += [name] if name != "change" else []
        return replace(done, reached=names[-1])

    def seen(self) -> list[tuple[float, str]]:
        """Marks so far."""
        lines = self.marks.read_text().split("\n")[:-1] if self.marks.exists() else []
        return [(float(line.split()[0]), line.split()[1]) for line in lines]

    def left(self) -> dict[str, Any] | None:
        """What the run left behind, without times; None if it is not finished."""
        if not (self.run / "results.json").exists():
            return None
        return {
            "results": results(self.run), "metrics": rows(self.run),
            "samples": (self.run / "samples.jsonl").read_text(), **{name: (self.run / name).read_bytes() for name in ADAPTERS},
            "files": sorted(str(file.relative_to(self.run)) for file in self.run.rglob("*") if file.name != "error.txt"),
        }  # fmt: skip

    def remove(self) -> None:
        shutil.rmtree(self.root)

    @contextmanager
    def disk(self, folder: Path, size: int) -> Iterator[None]:
        """A small disk at a folder, whose files move there."""
        kept = list(folder.iterdir()) if folder.exists() else []
        aside = self.root / "aside"
        if kept:
            folder.rename(aside)
        folder.mkdir(parents=True)
        mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder))
        try:
            if kept:
                shutil.copytree(aside, folder, dirs_exist_ok=True)
            yield
        finally:
            subprocess.run(["umount", "-l", str(folder)], check=True)


def mount(*arguments: str) -> None:
    """``mount``.

    Raises:
        subprocess.CalledProcessError: it cannot.
    """
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


def twin(sandbox: Sandbox, cold: Twin | None = None) -> Twin:
    """An undisturbed run in a new sandbox."""
    done = sandbox.command()
    assert done.status == 0, done.output
    left = sandbox.left()
    assert left is not None
    size = sum(file.stat().st_size for file in sandbox.run.rglob("*") if file.is_file())
    return Twin(left, sandbox.seen(), size, cold)


def differences(left: dict[str, Any] | None, right: dict[str, Any]) -> str:
    """In words; empty where there are none."""
    if left is None:
        return "it is not finished"
    parts = [name for name in right if left[name] != right[name]]
    if "results" in parts:
        parts += [f"results.{key}" for key in right["results"] if left["results"].get(key) != right["results"][key]]
    return ", ".join(parts)


def _alive(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


NUMBERS = {name: int(signal.Signals[f"SIG{name}"]) for name in ("KILL", "TERM", "INT")}
