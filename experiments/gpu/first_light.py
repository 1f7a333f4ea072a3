"""Everything that only a GPU can show, in one command: ``python -m experiments.gpu.first_light``.

Decoding with CUDA graphs against decoding without, gradients in bf16 against fp32, updates at the shape of Qwen3-4B with random weights
made on the device (seconds, most bytes, share of the floor), TRL's RLOO beside them, the hours of Table 1, a run from the command line and
the tests.  Each part is a process of its own with a limit, and ``first_light.json`` and ``.md`` are written after each: a part that fails,
or that there is no time for, costs its own row.  ``--size toy`` is the same on a processor.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from experiments.benchmarks.floors import floor, table1_hours
from experiments.benchmarks.setting import QWEN3_0_6B, QWEN3_4B, Setting
from experiments.gpu import parts
from grade_lightning.records.files import write_atomically

HERE = Path(__file__).parent
MARK = "found: "
GPU: dict[str, Any] = {"device": "cuda", "precision": "bf16"}
SIZES = {
    "qwen3_4b": Setting(**QWEN3_4B, **GPU),
    "qwen3_0_6b": Setting(**QWEN3_0_6B, **GPU),
    "toy": Setting(rows=4, new_tokens=4, vocab_size=1024, top_k=32, hidden_size=64, layers=2, mlp_size=128, heads=2, kv_heads=1),
}
TABLE_1 = ("soft", "adjoint", "ppo", "reinforce")  # the paper's four methods
SPEEDS = ("bytes_per_second", "operations_per_second", "device_bytes")
UPDATES = ("adjoint", "reinforce", "rloo", "soft", "ppo", "recompute")
# In the order of their worth: function and seconds that a part may take.
PARTS: dict[str, tuple[Callable[[Setting], dict[str, Any]], int]] = {
    "machine": (parts.machine, 60),
    "decoding": (parts.decoding, 120),
    **{f"update {case}": (partial(parts.update, case), 90) for case in UPDATES[:-1]},
    "precision": (parts.precision, 90),
    "update recompute": (partial(parts.update, "recompute"), 180),
    "TRL": (parts.trl, 120),
    "run": (parts.whole_run, 150),
    "tests": (parts.tests, 120),
}


def start_part(name: str, size: str) -> subprocess.Popen[str]:
    """A part in a process of its own, which imports what it needs and then waits for a line to begin."""
    command = [sys.executable, "-m", "experiments.gpu.first_light", "--size", size, "--part", name]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=parts.REPOSITORY, stdin=pipe, stdout=pipe, stderr=pipe, text=True, start_new_session=True)


def stop_part(process: subprocess.Popen[str]) -> None:
    """End a part and what it started, which must not run beside the next one."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_part(process: subprocess.Popen[str], limit: float) -> dict[str, Any]:
    """Let a part begin and wait for what it found."""
    start = time.perf_counter()
    try:
        out, errors = process.communicate("begin\n", timeout=limit)
    except subprocess.TimeoutExpired:
        return {"status": "out of time", "seconds": limit, "error": f"it was stopped after {limit:.0f} s"}
    finally:
        stop_part(process)
    seconds = time.perf_counter() - start
    answers = [line.removeprefix(MARK) for line in out.splitlines() if line.startswith(MARK)]
    if process.returncode or not answers:
        return {"status": "failed", "seconds": seconds, "error": errors[-3000:]}
    return {"status": "done", "seconds": seconds, "found": json.loads(answers[-1])}


def conclude(record: dict[str, Any]) -> dict[str, Any]:
    """What follows from parts that are there: shares of the floor, ratios, hours of Table 1."""
    found = {name: part["found"] for name, part in record["parts"].items() if part["status"] == "done"}
    seconds = {name.removeprefix("update "): part["seconds"] for name, part in found.items() if "seconds" in part and name != "decoding"}
    concluded: dict[str, Any] = {}
    for above, below in (("recompute", "adjoint"), ("adjoint", "reinforce"), ("TRL", "rloo")):
        if above in seconds and below in seconds:
            concluded[f"{above} / {below}"] = seconds[above] / seconds[below]
    if "machine" in found:
        bandwidth, rate = (found["machine"][key] for key in SPEEDS[:2])
        setting = SIZES[record["size"]]
        for case in ("adjoint", "reinforce", "rloo", "ppo"):
            if case in seconds:
                least = floor(setting, case, found[f"update {case}"]["hops"], bandwidth, rate)
                concluded[f"share of the floor, {case}"] = sum(least.values()) / seconds[case]
    hours = table1_hours(seconds, TABLE_1)
    if hours is not None:
        concluded["hours of Table 1, one seed, without evaluation"] = hours
    return concluded


def markdown(record: dict[str, Any]) -> str:
    """The record as a page."""
    machine = record["parts"].get("machine", {}).get("found", {})
    where, torch = machine.get("gpu") or machine.get("processor", "an unknown machine"), machine.get("packages", {}).get("torch", "?")
    lines = [
        f"`python -m experiments.gpu.first_light --size {record['size']}` on {where}, torch {torch}, "
        f"revision {str(machine.get('git_revision'))[:12]}.", "", "| part | status | seconds | found |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, part in record["parts"].items():
        shown = {key: value for key, value in part.get("found", {}).items() if name != "machine" or key in SPEEDS}
        text = ", ".join(f"{key} {_short(value)}" for key, value in shown.items())
        if part.get("error"):
            text = part["error"].strip().splitlines()[-1][:200].replace("|", "/")
        lines.append(f"| {name} | {part['status']} | {part['seconds']:.0f} | {text} |")
    if "note" in record:
        lines += ["", record["note"]]
    lines += ["", *(f"- {name}: {value:.3g}" for name, value in record["concluded"].items())]
    return "\n".join(lines) + "\n"


def _short(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(map(_short, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_short(one)}" for key, one in value.items()) + "}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def measure(size: str, wanted: list[str], minutes: float, out: Path) -> dict[str, Any]:
    """Run parts one after the other and write the record after each."""
    end = time.monotonic() + 60 * minutes
    record: dict[str, Any] = {"size": size, "setting": dataclasses.asdict(SIZES[size]), "parts": {}, "concluded": {}}
    out.mkdir(parents=True, exist_ok=True)
    coming = [start_part(name, size) for name in wanted[:1]]
    try:
        for name, following in zip(wanted, [*wanted[1:], None], strict=True):
            process, left = coming.pop(), end - time.monotonic()
            if following is not None:  # imports while this part works: they are most of a short part's seconds
                coming.append(start_part(following, size))
            print(f"{name}: ", end="", flush=True)
            if left < 15:
                stop_part(process)
                record["parts"][name] = {"status": "not run", "seconds": 0.0, "error": "no time was left: raise --minutes"}
            else:
                record["parts"][name] = run_part(process, min(PARTS[name][1], left))
            part = record["parts"][name]
            print(f"{part['status']}, {part['seconds']:.0f} s", flush=True)
            record["concluded"] = conclude(record)
            write_atomically(out / "first_light.json", json.dumps(record, indent=1) + "\n")
            write_atomically(out / "first_light.md", markdown(record))
    finally:
        for process in coming:
            stop_part(process)
    return record


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="qwen3_4b")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--out", type=Path, default=HERE, help="where the record goes")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS), help="all by default")
    parser.add_argument("--part", choices=PARTS, help="one part in this process, printed, once it reads a line: how parts are started")
    chosen = parser.parse_args()
    if chosen.part:
        from grade_lightning.training.process import prepare_process

        prepare_process()
        if not sys.stdin.readline():  # who started this part is gone
            return 1
        print(MARK + json.dumps(PARTS[chosen.part][0](SIZES[chosen.size])), flush=True)
        return 0
    if SIZES[chosen.size].device == "cuda":
        import torch

        if not torch.cuda.is_available():
            parser.error(f"--size {chosen.size} needs a GPU and torch {torch.__version__} sees none: --size toy is the same on a processor")
    record = measure(chosen.size, chosen.parts, chosen.minutes, chosen.out)
    print(markdown(record))
    return 0 if all(part["status"] == "done" for part in record["parts"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())
