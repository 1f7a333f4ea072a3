"""A method's way through reward and KL: from step to step by its validations, or from weight to weight of the KL by its tests."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from grade_lightning.reporting import equal_kl
from grade_lightning.reporting.clean import is_number
from grade_lightning.reporting.differences import FACTS, comparable
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.variants import Variant

Point = tuple[float, float]  # KL, reward
_NOT_OF_A_FAMILY = ("kl_coef", "evaluation.validate_every", "evaluation.samples")
_CURVE = 41  # KLs at which a curve is drawn


@dataclass
class Line:
    """A method's way through reward and KL.

    Attributes:
        label: of the method; method: its own name.
        places: of its variants.
        weights: whether it goes from one weight of the KL to the next, by tests, and not from step to step, by validations.
        seeds: of steps, each seed's (KL, reward) in order of KL.
        stations: KL, reward, and the ends of its band.  Of steps the mean, lowest and highest of the seeds, linear between their points, as
            far as all of them reach; of weights :func:`.equal_kl.band`, where there are runs enough for a curve.
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
        line.stations = _curve(tested, unit)
        return line
    line.seeds = [points for run in first.runs if len(points := sorted(_validations(run, unit))) > 1]
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


def _curve(runs: list[Run], unit: str) -> list[tuple[float, float, float, float]]:
    """Stations of the curve through tests at several weights of the KL; none where there are too few runs for one."""
    key = equal_kl.QUANTITIES[0].key
    found = curves_of({"": [run for run in runs if all(is_number(run.results[s].get(key)) for s in ("initial", "test"))]}, unit)
    kls = [point.kl for points in found.methods[""].values() for point in points]
    if not equal_kl.enough(found.methods[""]) or min(kls) == max(kls):
        return []
    grid = np.geomspace(min(kls), max(kls), _CURVE)
    low, middle, high = equal_kl.band(found, "", grid)
    return [(float(kl), float(mid), float(down), float(up)) for kl, mid, down, up in zip(grid, middle, low, high, strict=True)]


def curves_of(tested: Mapping[str, Sequence[Run]], unit: str = "token") -> equal_kl.Curves:
    """Tests by label as points of curves: the quantities that every run and every initial policy has.

    Left out are runs whose weight or KL is not known, and those whose policy was never moved.
    """
    known = {label: [(kl, run) for run in runs if (kl := _moved(run, unit)) is not None] for label, runs in tested.items()}
    every = [run for runs in known.values() for _, run in runs]
    names = [quantity.key for quantity in equal_kl.QUANTITIES]
    keys = [key for key in names if all(is_number(run.results[split].get(key)) for run in every for split in ("initial", "test"))]
    start = {key: math.fsum(run.results["initial"][key] for run in every) / len(every) for key in keys} if every else {}
    methods: dict[str, dict[int, list[equal_kl.Point]]] = {label: defaultdict(list) for label in known}
    for label, runs in known.items():
        for kl, run in sorted(runs, key=lambda pair: pair[0]):
            values = {key: float(run.results["test"][key]) for key in keys}
            methods[label][run.seed].append(equal_kl.Point(run.config["kl_coef"], kl, values))
    return equal_kl.Curves(start, methods)


def _moved(run: Run, unit: str) -> float | None:
    """The KL of a test at a known weight, where that is above 0."""
    kl = kl_of(run.results["test"], unit)
    return float(kl) if kl is not None and kl > 0 and "kl_coef" in run.config else None


def _validations(run: Run, unit: str) -> list[Point]:
    return [point for v in run.results["validation"] if (point := _point(v, unit)) is not None]
