"""All cases in turns, each in a process of its own: ``make bench``."""

from __future__ import annotations

import argparse
import json
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import matplotlib

from experiments.benchmarks.floors import PAPER_STEPS, fractions, peaks, table1_hours
from experiments.benchmarks.setting import QWEN3_4B, Setting
from experiments.benchmarks.turns import ratio, summary, take_turns
from grade_lightning.records.files import write_atomically
from grade_lightning.training.environment import environment

matplotlib.use("Agg")
import matplotlib.pyplot as plt

HERE = Path(__file__).parent
TRL = "RLOO, TRL"
MERGED = "GRADE-STE, prefix recomputation, our layers"
Group = dict[str, list[dict[str, Any]]]
# name -> case and what differs from the common setting.  Cases of one group take turns, so their ratios mean something.
DECISIVE: dict[str, tuple[str, dict[str, Any]]] = {
    "GRADE-STE": ("adjoint", {}),
    "REINFORCE": ("reinforce", {}),
    "GRADE-STE, prefix recomputation": ("recompute", {}),
    MERGED: ("recompute_merged", {}),
    "RLOO": ("rloo", {}),
    TRL: ("trl_rloo", {}),
    "mixture": ("annealed", {"tau": 1.0}),
    "mixture, max_hops=0": ("annealed", {"tau": 1.0, "max_hops": 0}),
}
GROWTH: dict[str, tuple[str, dict[str, Any]]] = {
    f"GRADE-STE, T={tokens}": ("adjoint", {"new_tokens": tokens}) for tokens in (16, 32, 64, 128)
}
ALONE: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"GRADE-STE, B={rows}": ("adjoint", {"rows": rows}) for rows in (4, 32)},
    **{f"GRADE-STE, V={size}": ("adjoint", {"vocab_size": size, "model": None}) for size in (2048, 8192, 32768)},
    **{f"GRADE-STE, tol={tol:g}": ("adjoint", {"tol": tol}) for tol in (1e-1, 1e-6)},
    "GRADE-STE, max_hops=0": ("adjoint", {"max_hops": 0}),
    **{f"GRADE-STE, tau={tau:g}": ("adjoint", {"tau": tau}) for tau in (1.0, 0.5)},
    "GRADE, soft tokens": ("adjoint", {"straight_through": False}),
    "GRADE-STE, checkpointing": ("adjoint", {"checkpointing": True}),
    "GRADE-STE, token by token": ("sequential", {}),
}
TABLE_1 = ("GRADE, 4B", "GRADE-STE, 4B", "PPO, 4B", "REINFORCE, 4B")  # the paper's four methods
RECOMPUTE_4B = "GRADE-STE, 4B, prefix recomputation"
FOUR_B: dict[str, tuple[str, dict[str, Any]]] = {
    "GRADE-STE, 4B": ("adjoint", {}),
    "GRADE, 4B": ("adjoint", {"straight_through": False}),
    "PPO, 4B": ("ppo", {}),
    "REINFORCE, 4B": ("reinforce", {}),
    RECOMPUTE_4B: ("recompute", {}),
}
# name -> the two cases, what is compared, and the goal
RATIOS: dict[str, tuple[str, str, str, str, float]] = {
    "recompute_over_adjoint": ("GRADE-STE, prefix recomputation", "GRADE-STE", "seconds", ">=", 10.0),
    "recompute_over_adjoint_like_for_like": (MERGED, "GRADE-STE", "seconds", ">=", 15.0),
    "grade_ste_over_reinforce": ("GRADE-STE", "REINFORCE", "seconds", "<=", 1.15),
    "grade_ste_over_reinforce_memory": ("GRADE-STE", "REINFORCE", "memory", "<=", 1.3),
    "trl_rloo_over_ours": (TRL, "RLOO", "seconds", ">=", 2.0),
    "mixture_over_rloo": ("mixture", "RLOO", "seconds", "<=", 2.0),
    "mixture_no_hops_over_rloo": ("mixture, max_hops=0", "RLOO", "seconds", "<=", 1.3),
    "growth_t32_t128": ("GRADE-STE, T=128", "GRADE-STE, T=32", "seconds", "<=", 3.2),
    "recompute_over_adjoint_4b": (RECOMPUTE_4B, "GRADE-STE, 4B", "seconds", ">=", 25.0),
}
# What the goals say of a GRADE-STE update at Qwen3-4B's shape on an H200, 16 x (32 + 64) tokens.
GOAL_4B = {"seconds": 1.5, "peak": 24e9}


def compare(*groups: Group) -> dict[str, dict[str, Any]]:
    """The ratios whose two cases took turns with each other."""
    found = {}
    for name, (above, below, key, _, _) in RATIOS.items():
        for group in groups:
            if above in group and below in group:
                found[name] = ratio(group[above], group[below], key)
    return found


def settled(group: Group) -> bool:
    """Whether the smallest and the largest quotient of each ratio, outliers aside, are within 30% of the median."""
    spreads = compare(group).values()
    return all(one["median"] <= 1.3 * one["smallest"] and one["largest"] <= 1.3 * one["median"] for one in spreads)


def markdown(result: dict[str, Any]) -> str:
    machine = result["machine"]
    lines = [
        f"Measured on {machine['gpu'] or machine['processor']}, {machine['cpus']} CPUs, {machine['torch_threads']} torch threads, "
        f"torch {machine['packages']['torch']}, revision {str(machine['git_revision'])[:12]}.", "",
        "| ratio | median over rounds | smallest - largest | rounds, outliers | goal | |", "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, (_, _, _, sign, goal) in RATIOS.items():
        found = result["spread"].get(name)
        if found is None and name.endswith("_4b"):
            continue  # on a GPU alone
        if found is None:
            lines.append(f"| {name} | not measured | | | {sign} {goal:g} | |")
            continue
        met = found["median"] >= goal if sign == ">=" else found["median"] <= goal
        spread = f"{found['smallest']:.2f} - {found['largest']:.2f}"
        rounds = f"{len(found['quotients'])}, {found['outliers']}"
        lines.append(f"| {name} | {found['median']:.2f} | {spread} | {rounds} | {sign} {goal:g} | {'met' if met else 'missed'} |")
    lines += ["", "| case | seconds | fastest - slowest | peak memory, MiB | terms |", "| --- | --- | --- | --- | --- |"]
    for name, m in result["medians"].items():
        memory = "-" if m["memory"] is None else f"{m['memory'] / 2**20:.0f}"
        hops = "-" if m["hops"] is None else f"{m['hops']:g}"
        lines.append(f"| {name} | {m['seconds']:.2f} | {m['fastest']:.2f} - {m['slowest']:.2f} | {memory} | {hops} |")
    return "\n".join([*lines, *_floors(result)]) + "\n"


def _floors(result: dict[str, Any]) -> list[str]:
    found = result["floors"]
    lines = [
        "", f"Least seconds at the {found['bytes_per_second'] / 1e9:,.0f} GB/s of a large copy (the weights once a token) and the "
        f"{found['operations_per_second'] / 1e12:,.2f} TFLOP/s of a large product (everything else), both measured here:", "",
        "| case | rollout | products | share of what was measured | tokens a second | memory foreseen / measured, MiB |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, case in found["cases"].items():
        tokens, memory = f"{case['tokens_per_second']:,.0f}", result["medians"][name]["memory"] / 2**20
        share = f"{case['rollout']:.3f} | {case['products']:.3f} | {case['achieved']:.0%}"
        lines.append(f"| {name} | {share} | {tokens} | {case['estimated_memory'] / 2**20:.0f} / {memory:.0f} |")
    large = result["medians"].get("GRADE-STE, 4B")
    if large is not None:
        seconds, peak = large["seconds"], large["peak"]
        lines += ["", f"GRADE-STE at Qwen3-4B's shape: {seconds:.2f} s (goal on an H200: {GOAL_4B['seconds']}), "
                  f"peak {peak / 1e9:.1f} GB (goal: {GOAL_4B['peak'] / 1e9:.0f})."]  # fmt: skip
    if result["table1_hours"] is not None:
        lines += ["", f"The four runs of the paper's Table 1 ({PAPER_STEPS} policy steps each, one seed, without evaluation): "
                  f"{result['table1_hours']:.1f} hours."]  # fmt: skip
    return lines


def _spread(medians: dict[str, Any], names: list[str]) -> list[list[float]]:
    """How far fastest and slowest are from the median.  Upwards at most the median: the machine may have been taken away."""
    found = [medians[name] for name in names]
    return [[m["seconds"] - m["fastest"] for m in found], [min(m["slowest"], 2 * m["seconds"]) - m["seconds"] for m in found]]


def plot(result: dict[str, Any], file: Path) -> None:
    """Seconds of an update by case, and against T."""
    medians = result["medians"]
    bars = [name for name in medians if "=" not in name]
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), width_ratios=[3, 2])
    drawn = left.barh(
        bars[::-1], [medians[name]["seconds"] for name in bars[::-1]], color="#4477AA", xerr=_spread(medians, bars[::-1]), capsize=2
    )
    left.bar_label(drawn, fmt="%.3g", padding=4)
    left.margins(x=0.12)
    left.set_xlabel("seconds per update: median, fastest - slowest (drawn to twice the median at most)")
    known = {tokens: name for tokens in (16, 32, 64, 128) if (name := f"GRADE-STE, T={tokens}") in medians}
    seconds = [medians[name]["seconds"] for name in known.values()]
    right.errorbar(list(known), seconds, yerr=_spread(medians, list(known.values())), fmt="o-", color="#4477AA", capsize=2)
    right.set_xticks(list(known))
    right.set_xlabel("new tokens T")
    right.set_ylabel("seconds per GRADE-STE update")
    right.set_ylim(bottom=0)
    for axis in (left, right):
        axis.spines[["top", "right"]].set_visible(False)
    figure.tight_layout()
    figure.savefig(file, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cpu", "gpu"], default="cpu")
    parser.add_argument("--model", default=None, help="model folder (default: random weights)")
    parser.add_argument("--rounds", type=int, default=7, help="of the cases that the goals compare; the others get half as many")
    parser.add_argument("--quick", action="store_true", help="only the ratios that need no scaling")
    parser.add_argument("--out", type=Path, default=HERE)
    chosen = parser.parse_args()
    gpu = chosen.device == "gpu"
    common: dict[str, Any] = {"device": "cuda", "precision": "bf16"} if gpu else {}
    small = {**common, "model": chosen.model}
    decisive = dict(DECISIVE)
    if find_spec("trl") is None or gpu:
        print("TRL is not compared: " + ("first_light does so on a GPU" if gpu else "pip install 'grade-lightning[bench]'"))
        del decisive[TRL]
    speed = peaks(common.get("device", "cpu"), common.get("precision", "fp32"))  # while nothing else runs
    rounds, fewer = chosen.rounds, (chosen.rounds + 1) // 2
    plan = [(decisive, small, rounds)]
    if not chosen.quick:
        plan += [(GROWTH, small, rounds), *(({name: case}, small, fewer) for name, case in ALONE.items())]
    if gpu:
        plan.append((FOUR_B, {**common, **QWEN3_4B}, fewer))
    groups: list[Group] = []
    settings: dict[str, tuple[str, Setting]] = {}
    for cases, shared, count in plan:
        wanted = {name: (case, {**shared, **setting}) for name, (case, setting) in cases.items()}
        groups.append(take_turns(wanted, count, optional=(TRL, RECOMPUTE_4B), settled=settled))
        settings |= {name: (case, Setting(**setting)) for name, (case, setting) in wanted.items()}
        result = write(groups, settings, small, speed, chosen.out)  # after each group: a later failure costs nothing that was measured
    print(markdown(result))


def write(
    groups: list[Group], settings: dict[str, tuple[str, Setting]], common: dict[str, Any], speed: tuple[float, float], out: Path
) -> dict[str, Any]:
    """``latest.json``, ``.md`` and ``.png`` of what was measured so far."""
    spread = compare(*groups)
    medians = {name: summary(measured) for group in groups for name, measured in group.items()}
    hours = table1_hours({name: median["seconds"] for name, median in medians.items()}, TABLE_1)
    result = {
        "machine": {**environment(), "load_at_end": os.getloadavg()}, "setting": common,
        "ratios": {name: spread[name]["median"] if name in spread else None for name in RATIOS}, "spread": spread,
        "medians": medians, "floors": fractions(medians, settings, *speed), "table1_hours": hours,
    }  # fmt: skip
    write_atomically(out / "latest.json", json.dumps(result, indent=1) + "\n")
    write_atomically(out / "latest.md", markdown(result))
    plot(result, out / "latest.png")
    return result


if __name__ == "__main__":
    main()
