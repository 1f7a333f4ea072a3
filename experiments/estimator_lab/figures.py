"""The laboratory's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

from grade_lightning.reporting.drawing import STYLE, describe, legend, note, panels, settle
from grade_lightning.reporting.palette import BLUE, INK, ORANGE, Look, looks

# The laboratory's estimators, and the methods that use them: a method has one colour everywhere.
_METHODS = {
    "Gumbel-softmax": "grade", "straight-through": "grade_ste", "straight-through, max_hops=0": "grade_ste", "decoupled ST": "decoupled_st",
    "Gumbel-Rao, K=16": "gumbel_rao", "ReinMax": "reinmax", "policy gradient": "reinforce", "policy gradient, baseline E[r]": "reinforce",
    "RLOO, G=4": "rloo",
}  # fmt: skip
LOOKS: dict[str, Look] = dict(zip(_METHODS, looks(list(_METHODS.values())), strict=True))


def _save(figure: Any, out: Path, name: str) -> None:
    settle(figure)
    figure.savefig(out / f"{name}.png", dpi=140, facecolor="white")


def one_step(found: dict[str, Any], out: Path) -> None:
    figure, _ = panels(3, 5.8)
    figure.clear()
    axes = figure.subplots(2, 3, sharex=True)
    truth = {"color": INK, "linestyle": ":", "linewidth": 1.4}
    for column, (kind, rows) in enumerate(found.items()):
        for name in ("Gumbel-softmax", "straight-through"):
            taus, style = [float(tau) for tau in rows[name]], LOOKS[name].marked(points=len(rows[name]))
            axes[0, column].plot(taus, [r["variance"] for r in rows[name].values()], label=name, **style)
            axes[1, column].plot(taus, [r["mean"] for r in rows[name].values()], **style)
        baseline = LOOKS["policy gradient"].line(linewidth=1.4)
        axes[0, column].axhline(rows["policy gradient"]["variance"], label="policy gradient (at no temperature)", **baseline)
        axes[1, column].axhline(rows["truth"], **truth)
        axes[0, column].plot([], [], label="truth, and the policy gradient's mean", **truth)
        axes[0, column].set(title=f"{kind} reward", yscale="log", xscale="log")
        axes[1, column].set(xlabel="tau")
    axes[0, 0].set_ylabel("variance of the gradient")
    axes[1, 0].set_ylabel("mean of the gradient")
    legend(figure, axes[0, 0])
    _save(figure, out, "one_step")


def _median(runs: list[dict[str, Any]], read: Any) -> float:
    return float(np.median([read(run) for run in runs]))


def temperatures(found: dict[str, Any], out: Path) -> None:
    """Rows: cosine of the mean, relative variance, what 16 rollouts give."""
    figure, _ = panels(len(found), 8.0, 3.2)
    figure.clear()
    axes = figure.subplots(3, len(found), sharex=True)
    rows = (("cosine", "cosine of the mean with the truth"), ("nvr", "relative variance (NVR)"), ("rho_16", "rho_16"))
    for column, (kind, runs) in enumerate(found.items()):
        taus = list(runs[0]["relaxations"])
        for row, (key, said) in enumerate(rows):
            panel = axes[row, column]
            for name, look in LOOKS.items():
                if name in runs[0]["policy gradients"]:
                    value = _median(runs, lambda run, key=key, name=name: run["policy gradients"][name][key])
                    panel.plot([float(tau) for tau in taus], [value] * len(taus), label=name, **look.marked(3, len(taus), linewidth=1))
                    continue
                have = [tau for tau in taus if name in runs[0]["relaxations"][tau]]
                values = [_median(runs, lambda run, tau=tau, key=key, name=name: run["relaxations"][tau][name][key]) for tau in have]
                panel.plot([float(tau) for tau in have], values, label=name, **look.marked(points=len(have)))
            panel.set_xscale("log")
            if key == "nvr":
                panel.set_yscale("log")
            if column == 0:
                panel.set_ylabel(said)
        axes[0, column].set_title(f"{kind} reward")
        axes[2, column].set_xlabel("tau")
    note(figure, f"medians over {len(next(iter(found.values())))} random policies; policy gradients have no temperature")
    legend(figure, axes[0, 0])
    _save(figure, out, "temperature")


def lengths(found: dict[str, Any], out: Path) -> None:
    figure, axes = panels(len(found), 3.4, 3.2)
    for panel, (kind, runs) in zip(axes, found.items(), strict=True):
        steps = list(runs[0]["lengths"])
        for name, look in LOOKS.items():
            if name in runs[0]["lengths"][steps[0]]:
                values = [_median(runs, lambda run, s=s, name=name: run["lengths"][s][name]["rho_16"]) for s in steps]
                panel.plot([int(s) for s in steps], values, label=name, **look.marked(points=len(steps)))
        describe(panel, f"{kind} reward", "tokens", "")
        panel.sharey(axes[0])
    axes[0].set_ylabel("rho_16 at tau 1")
    note(figure, f"medians over {len(next(iter(found.values())))} random policies")
    legend(figure, axes[0])
    _save(figure, out, "length")


def hybrids(found: dict[str, Any], out: Path) -> None:
    figure, _ = panels(len(found), 3.8, 3.2)
    figure.clear()
    axes = figure.subplots(1, len(found), sharey=True)
    for panel, (kind, taus) in zip(axes, found.items(), strict=True):
        names = list(taus["1.0"][0])
        for place, (tau, runs) in enumerate(taus.items()):
            means = [np.mean([run[name][0] for run in runs]) for name in names]
            bar = {"color": (BLUE, ORANGE)[place], "hatch": ("", "//")[place], "edgecolor": "white", "linewidth": 0}
            panel.barh(np.arange(len(names)) + 0.4 * place - 0.2, means, height=0.38, label=f"tau {tau}", **bar)
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.set(title=f"{kind} reward", xlabel="mean cosine, 16 rollouts")
    legend(figure, axes[0])
    _save(figure, out, "hybrid")


def draw(found: dict[str, Any], out: Path) -> None:
    with matplotlib.rc_context(STYLE):
        one_step(found["one_step"], out)
        temperatures(found["temperature"], out)
        lengths(found["length"], out)
        hybrids(found["hybrid"], out)


def shares(rows: list[dict[str, Any]], steps: tuple[int, ...], out: Path) -> None:
    """Share of the best frontier's rise against the number of steps, a panel for each reward."""
    with matplotlib.rc_context(STYLE):
        kinds = list(dict.fromkeys(row["reward"] for row in rows))
        figure, axes = panels(len(kinds), 4.2)
        lines = {
            "exact gradient": Look(INK, ":", ""), "straight-through, no noise": Look(BLUE, ":", ""), "RLOO": LOOKS["RLOO, G=4"],
            "straight-through": LOOKS["straight-through"], "straight-through to RLOO": looks(["annealed"])[0],
            "RLOO, control variate of the others' slopes": looks(["grpo"])[0],
        }  # fmt: skip
        for panel, kind in zip(axes, kinds, strict=True):
            for row in rows:
                if row["reward"] == kind and row["method"] in lines:
                    known = [(count, row[str(count)]) for count in steps if row[str(count)] is not None]
                    panel.plot(*zip(*known, strict=True), label=row["method"], **lines[row["method"]].marked(points=len(steps)))
            panel.set(title=f"{kind} reward", xscale="log", xlabel="steps of 16 sequences")
        axes[0].set_ylabel("share of the best possible rise")
        legend(figure, axes[0])
        _save(figure, out, "frontier")
