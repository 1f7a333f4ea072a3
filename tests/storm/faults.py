"""The faults of a storm: which, to which method, in which phase; a seed chooses."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

METHODS = sorted(file.stem for file in (Path(__file__).parents[2] / "conf" / "method").glob("*.yaml"))
COLD = ("pretraining", "head")  # phases that only a run with an empty cache has
PHASES = ("start", *COLD, "validation", "fit", "step", "test", "finish")  # fit: the first step
SIGNALS = [(phase, signal) for phase in (*PHASES, "records") for signal in ("KILL", "TERM", "INT")]
CACHED = ("model.safetensors", "tokenizer.json", "config.json", "ingredients.json", "head.safetensors", "report.json")
OF_A_RUN = (
    "checkpoints/resume.ckpt", "metrics.csv", "samples.jsonl", "environment.json", "results.json", "config.yaml",
    "checkpoints/last/adapter_model.safetensors",
)  # fmt: skip
DAMAGES = [(file, how) for file in (*CACHED, *OF_A_RUN) for how in ("truncated", "garbage", "empty", "missing")]
DAMAGES += [(file, "garbage line") for file in ("metrics.csv", "samples.jsonl")]
# In this order, again and again: 12 signals, 2 full disks, a read-only folder and 5 damaged files of 20.
MIX = [
    "signal", "damage", "signal", "signal", "disk", "signal", "damage", "signal", "signal", "read-only",
    "signal", "damage", "signal", "signal", "disk", "signal", "damage", "signal", "signal", "damage",
]  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong.

    Attributes:
        number: in the storm, from 1.
        method: of the run.
        kind: ``signal``, ``disk``, ``read-only`` or ``damage``.
        where: a phase; ``cache`` or ``run``; a file.
        what: of a signal its name, of damage its way; else empty.
        share: how far into the phase, how full a disk, how much of a file is left, in 0 to 1.
    """

    number: int
    method: str
    kind: str
    where: str
    what: str
    share: float

    def __str__(self) -> str:
        return f"{self.number} {self.method}: {self.kind} {self.where} {self.what} at {self.share:.2f}"


def storm(count: int, seed: int) -> list[Fault]:
    """The first so many faults of a seed's storm; every kind, phase and method comes up again and again, in random pairs."""
    rng = random.Random(seed)
    kinds = {
        "signal": _round(SIGNALS, rng), "disk": _round([("cache", ""), ("run", "")], rng), "damage": _round(DAMAGES, rng),
        "read-only": _round([("cache", ""), ("run", ""), ("full cache", "")], rng),
    }  # fmt: skip
    methods, found = _round(METHODS, rng), []
    for number, kind in zip(range(1, count + 1), itertools.cycle(MIX), strict=False):
        where, what = next(kinds[kind])
        headless = where == "head" or where in ("head.safetensors", "report.json")
        method = next(name for name in methods if not (headless and name == "residual"))  # whose reward has no trained head
        found.append(Fault(number, method, kind, where, what, rng.random()))
    return found


def _round(things: list, rng: random.Random) -> Iterator:
    """All things in random order, then all in another one, and so on."""
    while True:
        yield from rng.sample(things, len(things))
