"""Reward against the KL that was paid for it: a mean curve and a band for each method through its runs."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.differences import FACTS, comparable
from grade_lightning.reporting.drawing import describe, label_ends, legend, note, panels, plain, tag
from grade_lightning.reporting.palette import INK, PAPER, Look
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.variants import Variant

Curve = list[dict[str, Any]]
Point = tuple[float, float]  # KL, reward
UNITS = {"token": "KL, nats per token", "completion": "KL, nats per completion"}
_TICKS = [0.0, *(m * 10.0**e for e in range(-4, 5) for m in (1, 2.5, 5))]
_MOST_LABELLED = 8
_NOT_OF_A_FAMILY = ("kl_coef", "evaluation.validate_every", "evaluation.samples")


@dataclass
class Line:
    """A method's way through reward and KL.

    Attributes:
        label: of the method; method: its own name.
        places: of its variants.
        weights: whether it goes from one weight of the KL to the next, by tests, and not from step to step, by validations.
        seeds: each seed's (KL, reward) in order of KL.
        stations: KL, and mean, lowest and highest reward of the seeds at it, as far as all of them reach; linear between their points.
        ends: each test's (KL, reward).
    """

    label: str
    method: str
    places: list[int]
    weights: bool
    seeds: list[list[Point]] = field(default_factory=list)
    stations: list[tuple[float, float, float, float]] = field(default_factory=list)
    ends: list[Point] = field(default_factory=list)


def kl_of(found: dict[str, Any], unit: str) -> float | None:
    """KL of an evaluation a token or a completion; None where it is not known.

    The mean a token is over all tokens, so that the mean length makes it the mean a completion.
    """
    if unit == "token":
        return found["kl_mean"] if is_number(found.get("kl_mean")) else None
    if is_number(found.get("kl_sequence_mean")):
        return float(found["kl_sequence_mean"])
    known = all(is_number(found.get(key)) for key in ("kl_mean", "length_mean"))
    return found["kl_mean"] * found["length_mean"] if known else None


def _point(found: dict[str, Any], unit: str) -> Point | None:
    kl = kl_of(found, unit)
    return None if kl is None or not is_number(found.get("reward_mean")) else (float(kl), float(found["reward_mean"]))


def families(variants: list[Variant]) -> list[list[int]]:
    """Places of variants that differ in the weight of their KL alone, together; all others alone."""
    found: dict[Any, list[int]] = {}
    for place, variant in enumerate(variants):
        run = variant.runs[0]
        same = tuple(sorted((key, value) for key, value in comparable(run).items() if key not in _NOT_OF_A_FAMILY))
        facts = (variant.method, *(str(run.results.get(fact)) for fact in FACTS), str(run.results.get("reward_fingerprint")))
        swept = variant.tested and "kl_coef" in run.config
        found.setdefault((facts, same) if swept else place, []).append(place)
    return list(found.values())


def lines(variants: list[Variant], unit: str = "token") -> list[Line]:
    """A line for each method and configuration that has points."""
    made = [_line(variants, places, unit) for places in families(variants)]
    return [line for line in made if line.stations or line.ends]


def _line(variants: list[Variant], places: list[int], unit: str) -> Line:
    first = variants[places[0]]
    weights = len(places) > 1
    label = re.sub(r" \(\)", "", re.sub(r"(, )?kl_coef=[^,)]*", "", first.label).replace("(, ", "(")) if weights else first.label
    line = Line(label, first.method, places, weights)
    tested = [run for place in places for run in variants[place].tested]
    line.ends = [point for run in tested if (point := _point(run.results["test"], unit)) is not None]
    if weights:
        for seed in sorted({run.seed for run in tested}):
            own = [run for run in tested if run.seed == seed]
            start = own[0].results["initial"].get("reward_mean")
            known = [point for run in own if (point := _point(run.results["test"], unit)) is not None]
            line.seeds.append(sorted([*([(0.0, float(start))] if is_number(start) else []), *known]))
    else:
        line.seeds = [sorted(points) for run in first.runs if (points := _validations(run, unit))]
    line.seeds = [points for points in line.seeds if len(points) > 1]
    line.stations = _stations(line.seeds)
    return line


def reach(seeds: list[list[Point]]) -> float:
    """The highest KL that every seed reaches; 0 without any."""
    return min((points[-1][0] for points in seeds), default=0.0)


def at(points: list[Point], kl: float) -> float:
    """Reward at a KL, linear between the points of a seed."""
    kls, rewards = zip(*points, strict=True)
    return float(np.interp(kl, kls, rewards))


def _stations(seeds: list[list[Point]]) -> list[tuple[float, float, float, float]]:
    start, end = max((points[0][0] for points in seeds), default=0.0), reach(seeds)
    kls = sorted({kl for points in seeds for kl, _ in points if start <= kl <= end} | ({end} if start <= end and seeds else set()))
    rewards = [[at(points, kl) for points in seeds] for kl in kls]
    return [(kl, float(np.mean(found)), min(found), max(found)) for kl, found in zip(kls, rewards, strict=True)]


def _validations(run: Run, unit: str) -> list[Point]:
    return [point for v in run.results["validation"] if (point := _point(v, unit)) is not None]


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
            tag(axes.plot(kls, means, **style.marked(points=len(kls), label=plain(line.label), linewidth=1.6)), *line.places)
            if len(line.seeds) > 1:
                thin = len(found) <= _MOST_LABELLED
                for points in line.seeds if thin else []:
                    tag(axes.plot(*zip(*points, strict=True), color=style.colour, linewidth=0.7, alpha=0.3), *line.places)
                tag(axes.fill_between(kls, lows, highs, color=style.colour, alpha=0.15, linewidth=0), *line.places)
        if line.ends:
            dots = axes.plot(*zip(*line.ends, strict=True), linestyle="", marker=style.marker, markersize=4.5, markerfacecolor="none",
                             color=style.colour, alpha=0.7)  # fmt: skip
            tag(dots, *line.places)
        if line.ends and not line.weights:
            mean = tuple(np.mean(line.ends, axis=0))
            shown: dict[str, Any] = {"color": style.colour, "markeredgecolor": PAPER, "label": None if kls else plain(line.label)}
            tag(axes.plot(*mean, style.marker, markersize=9.5, zorder=5, **shown), *line.places)
            ends.append((*mean, plain(line.label), style.colour, line.places))
        elif kls:
            ends.append((kls[-1], means[-1], plain(line.label), style.colour, line.places))
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
    points = " or ".join(["validations"] * stepwise + ["tests by weight of the KL"] * weighed)
    text = f"line: mean over seeds at equal KL, linear between {points}, as far as all seeds reach; band: lowest to highest seed"
    text += "; thin: each seed" if len(found) <= _MOST_LABELLED else ""
    text += "; hollow: each seed's test" + ("; large: their mean" if stepwise else "")
    return text + ("; x: best of n" if best_of_n else "")
