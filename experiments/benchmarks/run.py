"""All cases, one after another, each in a fresh process: ``make bench``."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib

from grade_lightning.record import environment

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
QWEN3_4B = {"vocab_size": 151936, "hidden_size": 2560, "layers": 36, "heads": 32, "kv_heads": 8, "mlp_size": 9728}
ROUNDS = 3
GOALS = {
    "recompute_over_adjoint": (">=", 10.0), "grade_ste_over_reinforce": ("<=", 1.5), "grade_ste_over_reinforce_memory": ("<=", 1.3),
    "trl_rloo_over_ours": (">=", 1.5), "growth_t32_t128": ("<=", 5.0),
}  # fmt: skip


class Bench:
    """Measures cases and keeps what was found; a case that is measured again adds to what is there.

    Args:
        common: fields of Setting that all cases share.
        repeats: of each measurement, after a warm-up.
    """

    def __init__(self, common: dict[str, Any], repeats: int):
        self.common, self.repeats = common, repeats
        self.medians: dict[str, dict[str, Any]] = {}
        self.seconds: dict[str, list[float]] = {}

    def __call__(self, name: str, case: str, *, repeats: int | None = None, **setting: Any) -> None:
        start = time.perf_counter()
        arguments = [case, json.dumps({**self.common, **setting}), str(repeats or self.repeats)]
        done = subprocess.run(
            [sys.executable, "-m", "experiments.benchmarks.measure", *arguments],
            capture_output=True,
            text=True,
            cwd=HERE.parents[1],
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"{name} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
        found = json.loads(done.stdout.strip().splitlines()[-1])
        seconds = [*self.seconds.get(name, []), *found.pop("seconds")]
        self.seconds[name] = seconds
        self.medians[name] = {
            "case": case, **setting, "seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds),
            "repeats": len(seconds), **found,
        }  # fmt: skip
        median = self.medians[name]
        memory = "" if median["memory"] is None else f", {median['memory'] / 2**20:.0f} MiB"
        print(f"{name:32} {median['seconds']:8.2f} s{memory}   (took {time.perf_counter() - start:.0f} s)", flush=True)

    def ratio(self, above: str, below: str, key: str = "seconds") -> float | None:
        if above not in self.medians or below not in self.medians:
            return None
        return self.medians[above][key] / self.medians[below][key]


def _trl(bench: Bench) -> bool:
    """Measure TRL; False where it fails, which costs its own ratio alone."""
    try:
        bench("RLOO, TRL", "trl_rloo")
    except RuntimeError as error:
        print(error)
        return False
    return True


def measure_all(bench: Bench, *, with_trl: bool, scaling: bool) -> dict[str, float | None]:
    for _ in range(ROUNDS):  # taking turns: a machine that others use is slower at one time than at another
        bench("GRADE-STE", "adjoint")
        bench("REINFORCE", "reinforce")
        bench("GRADE-STE, prefix recomputation", "recompute", repeats=1)
        bench("RLOO", "rloo")
        with_trl = with_trl and _trl(bench)
    bench("GRADE-STE, prefix recomputation, merged layers", "recompute_merged", repeats=1)
    bench("GRADE-STE, token by token", "sequential", repeats=3)
    if scaling:
        for tokens in (16, 32, 128):
            bench(f"GRADE-STE, T={tokens}", "adjoint", new_tokens=tokens)
        for rows in (4, 32):
            bench(f"GRADE-STE, B={rows}", "adjoint", rows=rows)
        for vocabulary in (2048, 32768):
            bench(f"GRADE-STE, V={vocabulary}", "adjoint", vocab_size=vocabulary, model=None)
        for tol in (1e-1, 1e-6):
            bench(f"GRADE-STE, tol={tol:g}", "adjoint", tol=tol, repeats=2)
        for tau in (1.0, 0.5):
            bench(f"GRADE-STE, tau={tau:g}", "adjoint", tau=tau, repeats=2)
        bench("GRADE, soft tokens", "adjoint", straight_through=False, repeats=2)
        bench("GRADE-STE, checkpointing", "adjoint", checkpointing=True)
    return {
        "recompute_over_adjoint": bench.ratio("GRADE-STE, prefix recomputation", "GRADE-STE"),
        "grade_ste_over_reinforce": bench.ratio("GRADE-STE", "REINFORCE"),
        "grade_ste_over_reinforce_memory": bench.ratio("GRADE-STE", "REINFORCE", "memory"),
        "trl_rloo_over_ours": bench.ratio("RLOO, TRL", "RLOO"),
        "growth_t32_t128": bench.ratio("GRADE-STE, T=128", "GRADE-STE, T=32"),
    }


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"Measured on {machine['gpu'] or machine['processor']}, {machine['cpus']} CPUs, {machine['torch_threads']} torch threads, "
        f"torch {machine['packages']['torch']}, revision {str(machine['git_revision'])[:12]}.", "",
        "| ratio | measured | goal | |", "| --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, value in result["ratios"].items():
        sign, goal = GOALS[name]
        met = value is not None and (value >= goal if sign == ">=" else value <= goal)
        shown = "not measured" if value is None else f"{value:.2f}"
        lines.append(f"| {name} | {shown} | {sign} {goal:g} | {'' if value is None else 'met' if met else 'missed'} |")
    lines += ["", "| case | seconds | fastest - slowest | peak memory, MiB | terms |", "| --- | --- | --- | --- | --- |"]
    for name, m in result["medians"].items():
        memory = "-" if m["memory"] is None else f"{m['memory'] / 2**20:.0f}"
        hops = "-" if m["hops"] is None else f"{m['hops']:g}"
        lines.append(f"| {name} | {m['seconds']:.2f} | {m['fastest']:.2f} - {m['slowest']:.2f} | {memory} | {hops} |")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], file: Path) -> None:
    """Seconds of an update by case, and against T."""
    medians = result["medians"]
    bars = [name for name in medians if "=" not in name]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[3, 2])
    left.barh(bars[::-1], [medians[name]["seconds"] for name in bars[::-1]], color="#4477AA")
    left.set_xlabel("seconds per update")
    left.set_xscale("log")
    lengths = {16: "GRADE-STE, T=16", 32: "GRADE-STE, T=32", 64: "GRADE-STE", 128: "GRADE-STE, T=128"}
    known = {tokens: medians[name]["seconds"] for tokens, name in lengths.items() if name in medians}
    right.plot(list(known), list(known.values()), "o-", color="#4477AA")
    right.set_xlabel("new tokens T")
    right.set_ylabel("seconds per GRADE-STE update")
    right.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--model", default=None, help="model folder (default: random weights)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="only the ratios that need no scaling")
    parser.add_argument("--out", type=Path, default=HERE)
    chosen = parser.parse_args()
    common: dict[str, Any] = {"model": chosen.model}
    if chosen.device == "gpu":
        common = {**QWEN3_4B, "device": "cuda", "precision": "bf16", "model": chosen.model}
    with_trl = find_spec("trl") is not None and chosen.device == "cpu"
    if not with_trl:
        print("TRL is not compared: " + ("a CPU comparison" if chosen.device == "gpu" else "pip install 'grade-lightning[bench]'"))
    bench = Bench(common, chosen.repeats)
    ratios = measure_all(bench, with_trl=with_trl, scaling=not chosen.quick)
    machine = {**environment(), "load_at_end": os.getloadavg()}
    result = {"machine": machine, "setting": common, "ratios": ratios, "medians": bench.medians}
    chosen.out.mkdir(parents=True, exist_ok=True)
    (chosen.out / "latest.json").write_text(json.dumps(result, indent=1) + "\n")
    (chosen.out / "latest.md").write_text(markdown(result))
    plot(result, chosen.out / "latest.png")
    print(markdown(result))


if __name__ == "__main__":
    main()
