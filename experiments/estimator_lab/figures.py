"""The laboratory's pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np

matplotlib.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {
    "Gumbel-softmax": "#E69F00", "straight-through": "#0072B2", "straight-through, max_hops=0": "#56B4E9", "decoupled ST": "#009E73",
    "Gumbel-Rao, K=16": "#CC79A7", "ReinMax": "#D55E00", "policy gradient": "#000000", "policy gradient, baseline E[r]": "#7F7F7F",
    "RLOO, G=4": "#A6761D",
}  # fmt: skip


def _save(figure: Any, out: Path, name: str) -> None:
    figure.savefig(out / f"{name}.png", dpi=140)
    plt.close(figure)


def one_step(found: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(2, 3, figsize=(11, 5.6), sharex=True, layout="constrained")
    for column, (kind, rows) in enumerate(found.items()):
        for name in ("Gumbel-softmax", "straight-through"):
            taus = [float(tau) for tau in rows[name]]
            axes[0, column].plot(taus, [r["variance"] for r in rows[name].values()], color=COLOURS[name], label=name)
            axes[1, column].plot(taus, [r["mean"] for r in rows[name].values()], color=COLOURS[name])
        axes[0, column].axhline(rows["policy gradient"]["variance"], color="k", linestyle="--", label="policy gradient")
        axes[1, column].axhline(rows["truth"], color="k", linestyle="--", label="truth = policy gradient's mean")
        axes[0, column].set(title=f"{kind} reward", yscale="log", xscale="log")
        axes[1, column].set(xlabel="tau")
    axes[0, 0].set_ylabel("variance of the gradient")
    axes[1, 0].set_ylabel("mean of the gradient")
    axes[0, 0].legend(fontsize=8)
    axes[1, 0].legend(fontsize=8)
    _save(figure, out, "one_step")


def _median(runs: list[dict[str, Any]], read: Any) -> float:
    return float(np.median([read(run) for run in runs]))


def temperatures(found: dict[str, Any], out: Path) -> None:
    """Rows: cosine of the mean, relative variance, what 16 rollouts give."""
    figure, axes = plt.subplots(3, len(found), figsize=(13, 8), sharex=True, layout="constrained")
    rows = (("cosine", "cosine of the mean with the truth"), ("nvr", "relative variance (NVR)"), ("rho_16", "rho_16"))
    for column, (kind, runs) in enumerate(found.items()):
        taus = list(runs[0]["relaxations"])
        for row, (key, label) in enumerate(rows):
            panel = axes[row, column]
            for name, colour in COLOURS.items():
                if name in runs[0]["policy gradients"]:
                    value = _median(runs, lambda run, key=key, name=name: run["policy gradients"][name][key])
                    panel.axhline(value, color=colour, linestyle="--", linewidth=1, label=name)
                    continue
                have = [tau for tau in taus if name in runs[0]["relaxations"][tau]]
                values = [_median(runs, lambda run, tau=tau, key=key, name=name: run["relaxations"][tau][name][key]) for tau in have]
                panel.plot([float(tau) for tau in have], values, color=colour, marker=".", label=name)
            panel.set_xscale("log")
            if key == "nvr":
                panel.set_yscale("log")
            if column == 0:
                panel.set_ylabel(label)
        axes[0, column].set_title(f"{kind} reward")
        axes[2, column].set_xlabel("tau")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    _save(figure, out, "temperature")


def lengths(found: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(1, len(found), figsize=(13, 3.6), sharey=True, layout="constrained")
    for panel, (kind, runs) in zip(axes, found.items(), strict=True):
        steps = list(runs[0]["lengths"])
        for name, colour in COLOURS.items():
            if name in runs[0]["lengths"][steps[0]]:
                values = [_median(runs, lambda run, s=s, name=name: run["lengths"][s][name]["rho_16"]) for s in steps]
                panel.plot([int(s) for s in steps], values, color=colour, marker=".", label=name)
        panel.set(title=f"{kind} reward", xlabel="tokens")
    axes[0].set_ylabel("rho_16 at tau 1")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=5, fontsize=8)
    _save(figure, out, "length")


def hybrids(found: dict[str, Any], out: Path) -> None:
    figure, axes = plt.subplots(1, len(found), figsize=(13, 3.8), sharey=True, layout="constrained")
    for panel, (kind, taus) in zip(axes, found.items(), strict=True):
        names = list(taus["1.0"][0])
        for place, (tau, runs) in enumerate(taus.items()):
            means = [np.mean([run[name][0] for run in runs]) for name in names]
            panel.barh(
                np.arange(len(names)) + 0.4 * place - 0.2, means, height=0.38, label=f"tau {tau}", color=("#0072B2", "#E69F00")[place]
            )
        panel.set_yticks(range(len(names)), names, fontsize=8)
        panel.set(title=f"{kind} reward", xlabel="mean cosine, 16 rollouts")
    axes[0].legend(fontsize=8)
    _save(figure, out, "hybrid")


def draw(found: dict[str, Any], out: Path) -> None:
    one_step(found["one_step"], out)
    temperatures(found["temperature"], out)
    lengths(found["length"], out)
    hybrids(found["hybrid"], out)
