"""Reward against the KL that was paid for it: a curve and a band for each method through its runs."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grade_lightning.reporting.drawing import describe, label_ends, legend, note, panels, plain, tag
from grade_lightning.reporting.equal_kl import USED
from grade_lightning.reporting.lines import Line, kl_of, lines
from grade_lightning.reporting.palette import INK, PAPER, Look
from grade_lightning.reporting.variants import Variant

Curve = list[dict[str, Any]]
UNITS = {"token": "KL, nats per token", "completion": "KL, nats per completion"}
_TICKS = [0.0, *(m * 10.0**e for e in range(-4, 5) for m in (1, 2.5, 5))]
_MOST_LABELLED = 8


def frontier(variants: list[Variant], look: dict[str, Look], best_of_n: Curve | None = None, unit: str = "token") -> Figure:
    """The figure that a report opens with.

    Args:
        variants: to draw.
        look: of each, by label.
        best_of_n: points of the initial policy's best of n, as ``best_of_n.json`` holds them.
        unit: of the KL: "token" or "completion".
    """
    figure, (axes,) = panels(1, 3.9, 5.1)
    found, ends = lines(variants, unit), []
    for line in found:
        style, (kls, means, lows, highs) = look[variants[line.places[0]].label], _columns(line.stations)
        if kls:
            shown: dict[str, Any] = {"label": plain(line.label), "linewidth": 1.6}
            if line.weights:  # the marker is for the legend alone: on the curve it would look like a run
                drawn = style.line(marker=style.marker, markersize=4.5, markerfacecolor="none", markevery=[], **shown)
            else:
                drawn = style.marked(points=len(kls), **shown)
            tag(axes.plot(kls, means, **drawn), *line.places)
            if len(line.seeds) > 1 and len(found) <= _MOST_LABELLED:
                for points in line.seeds:
                    tag(axes.plot(*zip(*points, strict=True), color=style.colour, linewidth=0.7, alpha=0.3), *line.places)
            if lows != highs:
                tag(axes.fill_between(kls, lows, highs, color=style.colour, alpha=0.15, linewidth=0), *line.places)
        if line.ends:
            dots = axes.plot(*zip(*line.ends, strict=True), linestyle="", marker=style.marker, markersize=4.5, markerfacecolor="none",
                             color=style.colour, alpha=0.7, label=plain(line.label) if line.weights and not kls else None)  # fmt: skip
            tag(dots, *line.places)
        if line.ends and not line.weights:
            mean = tuple(np.mean(line.ends, axis=0))
            shown = {"color": style.colour, "markeredgecolor": PAPER, "label": None if kls else plain(line.label)}
            tag(axes.plot(*mean, style.marker, markersize=9.5, zorder=5, **shown), *line.places)
            ends.append((*mean, plain(line.label), style.colour, line.places))
        elif kls:
            ends.append((kls[-1], means[-1], plain(line.label), style.colour, line.places))
        else:
            ends.append((*np.mean(line.ends, axis=0), plain(line.label), style.colour, line.places))
    initial = _best_of_n(axes, best_of_n or [], unit)
    describe(axes, "Reward against KL", f"{UNITS[unit]} (square-root scale)", "reward")
    note(figure, _said(found, initial))
    _scale(axes, found, best_of_n or [], unit)
    if not (found and len(found) <= _MOST_LABELLED and label_ends(figure, axes, ends)):
        legend(figure, axes)
    return figure


def _scale(axes: Axes, found: list[Line], best_of_n: Curve, unit: str) -> None:
    """A square-root axis from 0, on which methods that pay little can be told apart beside one that pays much; room for labels."""
    kls = [kl for line in found for kl, *_ in (*line.stations, *line.ends)] + [kl for p in best_of_n if (kl := kl_of(p, unit))]
    highest = max(kls, default=0.0)
    axes.margins(y=0.08)
    if highest <= 0:
        return
    axes.set_xscale("function", functions=(lambda x: np.sqrt(np.maximum(x, 0.0)), np.square))
    axes.set_xlim(0.0, 1.35 * highest)
    kept = [0.0]
    for tick in _TICKS[1:]:
        if tick <= 1.35 * highest and np.sqrt(tick) - np.sqrt(kept[-1]) > 0.09 * np.sqrt(1.35 * highest):
            kept.append(tick)
    axes.set_xticks(kept, [f"{tick:g}" for tick in kept])


def _columns(stations: list[tuple[float, float, float, float]]) -> list[list[float]]:
    return [list(column) for column in zip(*stations, strict=True)] if stations else [[], [], [], []]


def _best_of_n(axes: Axes, points: Curve, unit: str) -> bool:
    """Crosses of the initial policy's best of n; whether there are any."""
    known = [(kl, p["reward_mean"], p["n"]) for p in points if (kl := kl_of(p, unit)) is not None]
    for place, (kl, reward, n) in enumerate(known):
        axes.plot(kl, reward, "x", color=INK, label="best of n, initial policy" if place == 0 else None)
        axes.annotate(f"{n:g}", (kl, reward), xytext=(3, -9), textcoords="offset points", fontsize=7)
    return bool(known)


def _said(found: list[Line], best_of_n: bool) -> str:
    stepwise, weighed = any(not line.weights for line in found), any(line.weights for line in found)
    text = []
    if stepwise:
        text.append("line: mean over seeds at equal KL, linear between validations, as far as all reach; band: lowest to highest seed")
    if weighed:
        text.append(f"curve through tests by weight of the KL: {USED.title}; its band: 95% over seeds")
    text += ["thin: each seed"] if stepwise and len(found) <= _MOST_LABELLED else []
    text.append("hollow: each seed's test" + ("; large: their mean" if stepwise else ""))
    return "; ".join([*text, "x: best of n"] if best_of_n else text)
