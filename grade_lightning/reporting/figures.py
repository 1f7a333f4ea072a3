"""The paper's Figures 1 to 4 and three more, from metrics and results; a band spans the seeds."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grade_lightning.reporting.drawing import STYLE, describe, legend, note, panels, plain, settle, tag
from grade_lightning.reporting.frontier import UNITS, Curve, frontier
from grade_lightning.reporting.palette import INK, PAPER, Look
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.table1 import mean, number
from grade_lightning.reporting.variants import Variant, looks_of

Looks = dict[str, Look]

_SMOOTH = 0.85  # of the exponential average that a noisy curve is drawn with
_MOST_POINTS, _MOST_OF_ALL = 150, 4000  # of a line and of a panel
LINES, SMOOTHED = "line: mean over seeds; band: lowest to highest seed", f"smoothed by an exponential average that keeps {_SMOOTH:g}"


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


def _thin(length: int, lines: int) -> np.ndarray:
    """Places of so many points of one of so many lines that can be seen, ends included."""
    most = min(_MOST_POINTS, max(20, _MOST_OF_ALL // max(1, lines)))
    return np.unique(np.linspace(0, length - 1, min(length, most)).round().astype(int))


def _tag(artists: Artist | Sequence[Artist], look: Looks, label: str) -> None:
    tag(artists, list(look).index(label))


def _curves(axes: Axes, variants: list[Variant], look: Looks, y: str, *, smooth: bool = True, x: str = "step") -> None:
    """A line for each variant: the mean over its seeds at the steps that all of them have, a band from lowest to highest seed."""
    for variant in variants:
        series = [(across, _smooth(up) if smooth else up) for across, up in (_series(run, x, y) for run in variant.runs) if len(up)]
        common = sorted(set.intersection(*(set(across.tolist()) for across, _ in series))) if series else []
        if not common:
            continue
        stacked = np.asarray([[dict(zip(across.tolist(), up, strict=True))[step] for step in common] for across, up in series])
        _line_and_band(axes, look, variant.label, np.asarray(common), stacked)


def _line_and_band(axes: Axes, look: Looks, label: str, across: np.ndarray, stacked: np.ndarray) -> None:
    """Mean of ``stacked`` [seeds, points], and from its lowest to its highest."""
    style, kept = look[label], _thin(len(across), len(look))
    across, stacked = across[kept], stacked[:, kept]
    _tag(axes.plot(across, stacked.mean(axis=0), **style.marked(points=len(across), label=plain(label), linewidth=1.5)), look, label)
    if len(stacked) > 1:
        _tag(axes.fill_between(across, stacked.min(axis=0), stacked.max(axis=0), color=style.colour, alpha=0.15, linewidth=0), look, label)


def training(variants: list[Variant], look: Looks) -> Figure:
    figure, axes = panels(3)
    for panel, (column, title, unit) in zip(
        axes, (("train/reward", "Training reward", "reward"), ("train/loss", "Loss", "loss"), ("train/kl", "KL", "nats per token")),
        strict=True,
    ):  # fmt: skip
        _curves(panel, variants, look, column)
        describe(panel, title, "policy step", unit)
    note(figure, f"{LINES}; {SMOOTHED}")
    legend(figure, axes[0])
    return figure


def _gaps(variant: Variant) -> list[float]:
    """Best validation - test of each seed."""
    return [number(run.results["best_validation"], "reward_mean") - number(run.results["test"], "reward_mean") for run in variant.tested]


def validation(variants: list[Variant], look: Looks) -> Figure:
    """Validation reward with the best marked, and best validation - test."""
    figure, (left, right) = panels(2, _height(variants), 4.6)
    for variant in variants:
        curves = [{v["step"]: v["reward_mean"] for v in run.results["validation"]} for run in variant.runs if run.results["validation"]]
        steps = sorted(set.intersection(*map(set, curves))) if curves else []
        if not steps:
            continue
        values = np.asarray([[curve[step] for step in steps] for curve in curves])
        _line_and_band(left, look, variant.label, np.asarray(steps), values)
        best, colour = int(values.mean(axis=0).argmax()), look[variant.label].colour
        star = left.plot(steps[best], values.mean(axis=0)[best], "*", color=colour, markersize=11, markeredgecolor=PAPER, zorder=5)
        _tag(star, look, variant.label)
    describe(left, "Validation reward", "policy step", "reward")
    shown = [(variant.label, _gaps(variant)) for variant in variants if variant.tested]
    for place, (label, gaps) in enumerate(shown):
        style = look[label]
        right.barh(place, mean(gaps), color=style.colour, alpha=0.35)
        right.plot(gaps, [place] * len(gaps), style.marker, color=style.colour, markeredgecolor=PAPER, markersize=5)
    if shown:
        right.axvline(0, color="0.5", linewidth=0.8)
    _rows(right, [label for label, _ in shown])
    describe(right, "Generalisation gap", "best validation - test", "")
    note(figure, f"{LINES}; star: highest mean. Bars: mean over seeds, a marker for each")
    legend(figure, left)
    return figure


def _height(variants: list[Variant]) -> float:
    return max(3.2, 1.2 + 0.22 * len(variants))


def _rows(axes: Axes, labels: list[str]) -> None:
    """Labels beside rows, the first on top."""
    axes.set_yticks(range(len(labels)), [plain(label) for label in labels])
    if labels:
        axes.set_ylim(len(labels) - 0.4, -0.6)


def gradients(variants: list[Variant], look: Looks) -> Figure:
    """Gradient norm before clipping, over steps and as a distribution."""
    figure, (left, right) = panels(2, _height(variants), 4.6)
    _curves(left, variants, look, "train/grad_norm", smooth=False)
    left.set_yscale("log")
    describe(left, "Gradient norm before clipping", "policy step", "norm")
    labels: list[str] = []
    for variant in variants:
        norms = np.concatenate([_series(run, "step", "train/grad_norm")[1] for run in variant.runs])
        norms = norms[norms > 0]
        if not len(norms):
            continue
        box = right.boxplot(
            norms, positions=[len(labels)], widths=0.6, patch_artist=True, orientation="horizontal", manage_ticks=False,
            flierprops={"markersize": 2, "markeredgecolor": "0.5"}, medianprops={"color": INK},
        )  # fmt: skip
        for part in (*box["boxes"], *box["whiskers"], *box["caps"]):
            part.set(color=look[variant.label].colour)
        box["boxes"][0].set(alpha=0.6)
        labels.append(variant.label)
    right.set_xscale("log")
    _rows(right, labels)
    describe(right, "Its distribution over steps and seeds", "norm", "")
    note(figure, f"{LINES}; not smoothed. Boxes: quartiles, whiskers to 1.5 times their distance")
    legend(figure, left)
    return figure


def temperature(variants: list[Variant], look: Looks) -> Figure | None:
    """Relaxation temperature over steps, and training reward against it; None where nothing was relaxed."""
    relaxed = [v for v in variants if any(np.isfinite(run.column("train/tau")).any() for run in v.runs)]
    if not relaxed:
        return None
    figure, (left, right) = panels(2, 2.9, 4.6)
    runs = sum(len(variant.runs) for variant in relaxed)
    _curves(left, relaxed, look, "train/tau", smooth=False)
    describe(left, "Relaxation temperature", "policy step", "tau")
    for variant in relaxed:
        style = look[variant.label]
        for run in variant.runs:
            tau, reward = _series(run, "train/tau", "train/reward")
            kept = _thin(len(tau), runs)
            dots = right.plot(tau[kept], reward[kept], style.marker, color=style.colour, markersize=2.5, alpha=0.5, markeredgewidth=0)
            _tag(dots, look, variant.label)
    right.invert_xaxis()
    describe(right, "Training reward against temperature", "tau (falling)", "reward")
    note(figure, f"Left: {LINES}. Right: a dot for each step and seed. Not smoothed")
    legend(figure, left)
    return figure


def cost(variants: list[Variant], look: Looks) -> Figure:
    """Training reward against completion tokens generated and against seconds of training."""
    figure, axes = panels(2, 2.9, 4.6)
    runs = sum(len(variant.runs) for variant in variants)
    for panel, (column, unit, scale) in zip(
        axes, (("train/tokens", "thousand tokens generated", 1000), ("train/seconds", "seconds", 1)), strict=True
    ):
        for variant in variants:
            for place, run in enumerate(variant.runs):
                amounts, rewards = _series(run, column, "train/reward")
                if not len(amounts):
                    continue
                kept, label = _thin(len(amounts), runs), plain(variant.label) if place == 0 else None
                style = look[variant.label].marked(points=len(kept), count=4, linewidth=1.0, alpha=0.8, label=label)
                _tag(panel.plot((np.cumsum(amounts) / scale)[kept], _smooth(rewards)[kept], **style), look, variant.label)
        describe(panel, f"Training reward against {unit.split()[-1] if scale == 1 else 'tokens'}", unit, "reward")
    note(figure, f"a line for each seed; {SMOOTHED}")
    legend(figure, axes[0])
    return figure


FIGURES: dict[str, tuple[str, Callable[[list[Variant], Looks], Figure | None]]] = {
    "figure1_training": ("Figure 1. Training reward, loss and KL", training),
    "figure2_validation": ("Figure 2. Validation and generalisation gap", validation),
    "figure3_gradients": ("Figure 3. Gradient norms", gradients),
    "figure4_temperature": ("Figure 4. Temperature", temperature),
    "cost": ("Reward against tokens and seconds", cost),
}
FRONTIERS = {"frontier": "token", "frontier_completion": "completion"}


def draw(variants: list[Variant], best_of_n: Curve | None = None) -> tuple[dict[str, tuple[str, Figure]], list[str]]:
    """Every figure that the runs have something for, by file name, with its title; and which were left out."""
    look, found, empty = looks_of(variants), {}, []
    with matplotlib.rc_context(STYLE):
        made = [(name, f"Reward against {UNITS[unit]}", frontier(variants, look, best_of_n, unit)) for name, unit in FRONTIERS.items()] + [
            (name, title, make(variants, look)) for name, (title, make) in FIGURES.items()
        ]
        for name, title, figure in made:
            if figure is not None and any(axes.has_data() for axes in figure.axes):
                settle(figure)
                found[name] = title, figure
            else:
                empty.append(f"nothing to draw, left out: {title}")
    return found, empty
