"""The paper's Figures 1 to 4 and three more, from metrics and results; a band spans the seeds."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.table1 import mean, number
from grade_lightning.reporting.variants import Variant, colours

matplotlib.use("Agg")

Look = dict[str, tuple[str, Any]]
INK = "#010203"  # black enough for print; unlike any other colour, so that a page can replace it by its own
STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "svg.fonttype": "none",
    "font.size": 9, "axes.titlesize": 10, "legend.frameon": False, "legend.fontsize": 8, "pdf.fonttype": 42, "savefig.dpi": 160,
}  # fmt: skip
_MOST_LABELS = 20  # of a legend
_SMOOTH = 0.85  # of the exponential average that a noisy curve is drawn with


def _series(run: Run, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps (or another column) and values where both are numbers."""
    across, up = run.column(x), run.column(y)
    if len(across) != len(up):
        return np.array([]), np.array([])
    whole = np.isfinite(across) & np.isfinite(up)
    return across[whole], up[whole]


def _smooth(values: np.ndarray) -> np.ndarray:
    average, weight, found = 0.0, 0.0, []
    for value in values:
        average, weight = _SMOOTH * average + (1 - _SMOOTH) * value, _SMOOTH * weight + (1 - _SMOOTH)
        found.append(average / weight)
    return np.asarray(found)


def _curves(axes: Axes, variants: list[Variant], look: Look, y: str, *, smooth: bool = True, x: str = "step") -> None:
    """A line for each variant: the mean over its seeds at the steps that all of them have, a band from lowest to highest seed."""
    for variant in variants:
        colour, line = look[variant.label]
        series = [(across, _smooth(up) if smooth else up) for across, up in (_series(run, x, y) for run in variant.runs) if len(up)]
        if not series:
            continue
        common = sorted(set.intersection(*(set(across.tolist()) for across, _ in series)))
        if not common:
            continue
        stacked = np.asarray([[dict(zip(across.tolist(), up, strict=True))[step] for step in common] for across, up in series])
        axes.plot(common, stacked.mean(axis=0), color=colour, linestyle=line, label=variant.label, linewidth=1.6)
        if len(series) > 1:
            axes.fill_between(common, stacked.min(axis=0), stacked.max(axis=0), color=colour, alpha=0.18, linewidth=0)


def _panels(columns: int, height: float = 2.9) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(3.7 * columns, height))
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def _name(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles and len(handles) > _MOST_LABELS:
        handles, labels = handles[: _MOST_LABELS + 1], [*labels[:_MOST_LABELS], f"... and {len(labels) - _MOST_LABELS} more"]
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(labels)))


def training(variants: list[Variant], look: Look) -> Figure:
    figure, axes = _panels(3)
    for panel, (column, title, unit) in zip(
        axes, (("train/reward", "Training reward", "reward"), ("train/loss", "Loss", "loss"), ("train/kl", "KL", "nats per token")),
        strict=True,
    ):  # fmt: skip
        _curves(panel, variants, look, column)
        _name(panel, title, "policy step", unit)
    _legend(figure, axes[0])
    return figure


def _gaps(variant: Variant) -> list[float]:
    """Best validation - test of each seed."""
    return [number(run.results["best_validation"], "reward_mean") - number(run.results["test"], "reward_mean") for run in variant.tested]


def validation(variants: list[Variant], look: Look) -> Figure:
    """Validation reward with the best marked, and best validation - test."""
    figure, (left, right) = _panels(2, 3.2)
    for variant in variants:
        colour, line = look[variant.label]
        curves = [{v["step"]: v["reward_mean"] for v in run.results["validation"]} for run in variant.runs if run.results["validation"]]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if not steps:
            continue
        values = np.asarray([[curve[step] for step in steps] for curve in curves])
        left.plot(steps, values.mean(axis=0), color=colour, linestyle=line, label=variant.label, marker=".", linewidth=1.6)
        if len(curves) > 1:
            left.fill_between(steps, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.18, linewidth=0)
        best = int(values.mean(axis=0).argmax())
        left.plot(steps[best], values.mean(axis=0)[best], marker="*", color=colour, markersize=11, markeredgecolor="white", zorder=5)
    _name(left, "Validation reward (star: best)", "policy step", "reward")
    shown = [(variant.label, _gaps(variant)) for variant in variants if variant.tested]
    for place, (label, gaps) in enumerate(shown):
        colour, _ = look[label]
        right.bar(place, mean(gaps), color=colour, alpha=0.7)
        right.plot([place] * len(gaps), gaps, "o", color=colour, markeredgecolor="white", markersize=4)
    if shown:
        right.axhline(0, color="0.4", linewidth=0.8)
    right.set_xticks(range(len(shown)), [label for label, _ in shown], rotation=30, ha="right")
    _name(right, "Generalisation gap (a dot a seed)", "", "best validation - test")
    _legend(figure, left)
    return figure


def gradients(variants: list[Variant], look: Look) -> Figure:
    """Gradient norm before clipping, over steps and as a distribution."""
    figure, (left, right) = _panels(2, 3.2)
    _curves(left, variants, look, "train/grad_norm", smooth=False)
    left.set_yscale("log")
    _name(left, "Gradient norm before clipping", "policy step", "norm")
    place, labels = 0, []
    for variant in variants:
        norms = np.concatenate([_series(run, "step", "train/grad_norm")[1] for run in variant.runs])
        norms = norms[norms > 0]
        if not len(norms):
            continue
        box = right.boxplot(
            norms, positions=[place], widths=0.6, patch_artist=True, flierprops={"markersize": 2}, medianprops={"color": "0.1"}
        )
        box["boxes"][0].set(facecolor=look[variant.label][0], alpha=0.6)
        labels.append(variant.label)
        place += 1
    right.set_yscale("log")
    right.set_xticks(range(len(labels)), labels, rotation=30, ha="right")
    _name(right, "Its distribution over steps", "", "norm")
    _legend(figure, left)
    return figure


def temperature(variants: list[Variant], look: Look) -> Figure | None:
    """Relaxation temperature over steps, and training reward against it; None where nothing was relaxed."""
    relaxed = [v for v in variants if any(np.isfinite(run.column("train/tau")).any() for run in v.runs)]
    if not relaxed:
        return None
    figure, (left, right) = _panels(2)
    _curves(left, relaxed, look, "train/tau", smooth=False)
    _name(left, "Relaxation temperature", "policy step", "tau")
    for variant in relaxed:
        colour, _ = look[variant.label]
        for run in variant.runs:
            tau, reward = _series(run, "train/tau", "train/reward")
            right.plot(tau, reward, ".", color=colour, markersize=3, alpha=0.5)
    right.invert_xaxis()
    _name(right, "Training reward against temperature", "tau (falling)", "reward")
    _legend(figure, left)
    return figure


Curve = list[dict[str, Any]]


def frontier(variants: list[Variant], look: Look, best_of_n: Curve | None = None) -> Figure:
    """Reward against what was paid for it: validations while training (small) and the final test (large), every seed.

    Args:
        variants: to draw.
        look: colour and line of each.
        best_of_n: points of the initial policy's best of n, as ``best_of_n.json`` holds them.
    """
    figure, (axes,) = _panels(1, 3.8)
    figure.set_figwidth(5.5)
    for variant in variants:
        colour, line = look[variant.label]
        for place, run in enumerate(variant.runs):
            points = sorted((v["kl_mean"], v["reward_mean"]) for v in run.results["validation"] if is_number(v.get("kl_mean")))
            label = variant.label if place == 0 else None
            if points:
                across, up = zip(*points, strict=True)
                axes.plot(across, up, color=colour, linestyle=line, marker=".", markersize=4, linewidth=0.9, alpha=0.6, label=label)
            test = run.results["test"]
            if is_number(test.get("kl_mean")):
                point: dict[str, Any] = {"color": colour, "markeredgecolor": "white", "markersize": 6, "label": None if points else label}
                axes.plot(test["kl_mean"], test["reward_mean"], "D", **point)
    for place, point in enumerate(best_of_n or []):
        axes.plot(point["kl_mean"], point["reward_mean"], "x", color=INK, label="best of n, initial policy" if place == 0 else None)
        axes.annotate(str(point["n"]), (point["kl_mean"], point["reward_mean"]), xytext=(3, -9), textcoords="offset points", fontsize=7)
    _name(axes, "Reward against KL (diamond: test)", "KL, nats per token", "reward")
    _legend(figure, axes)
    return figure


def cost(variants: list[Variant], look: Look) -> Figure:
    """Training reward against completion tokens generated and against seconds of training."""
    figure, axes = _panels(2)
    for panel, (column, unit, scale) in zip(
        axes, (("train/tokens", "thousand tokens generated", 1000), ("train/seconds", "seconds", 1)), strict=True
    ):
        for variant in variants:
            colour, line = look[variant.label]
            for place, run in enumerate(variant.runs):
                amounts, rewards = _series(run, column, "train/reward")
                if not len(amounts):
                    continue
                panel.plot(np.cumsum(amounts) / scale, _smooth(rewards), color=colour, linestyle=line, linewidth=1.1, alpha=0.8,
                           label=variant.label if place == 0 else None)  # fmt: skip
        _name(panel, f"Training reward against {unit.split()[-1] if scale == 1 else 'tokens'}", unit, "reward")
    _legend(figure, axes[0])
    return figure


FIGURES: dict[str, tuple[str, Callable[[list[Variant], Look], Figure | None]]] = {
    "figure1_training": ("Figure 1. Training reward, loss and KL", training),
    "figure2_validation": ("Figure 2. Validation and generalisation gap", validation),
    "figure3_gradients": ("Figure 3. Gradient norms", gradients),
    "figure4_temperature": ("Figure 4. Temperature", temperature),
    "frontier": ("Reward against KL", frontier),
    "cost": ("Reward against tokens and seconds", cost),
}


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PDF and PNG, without a date inside: the same figure gives the same file."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.png", facecolor="white")


def inline_svg(figure: Figure, name: str) -> str:
    """An ``<svg>`` element that takes its ink from the page, light or dark."""
    text = io.StringIO()
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    found = text.getvalue()
    return found[found.index("<svg") :].replace(INK, "currentColor")


def draw(variants: list[Variant], best_of_n: Curve | None = None) -> tuple[dict[str, tuple[str, Figure]], list[str]]:
    """Every figure that the runs have something for, by file name, with its title; and which were left out."""
    variants = [replace(variant, label=variant.label.replace("$", r"\$")) for variant in variants]  # no mathematics in labels
    look, found, empty = colours(variants), {}, []
    with matplotlib.rc_context(STYLE):
        for name, (title, make) in FIGURES.items():
            figure = frontier(variants, look, best_of_n) if make is frontier else make(variants, look)
            if figure is not None and any(axes.has_data() for axes in figure.axes):
                figure.draw_without_rendering()
                figure.set_layout_engine("none")  # laid out once, for all its formats
                found[name] = title, figure
            else:
                empty.append(f"nothing to draw, left out: {title}")
    return found, empty
