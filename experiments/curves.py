"""Runs of a study as points of curves against KL, and the forms that such a curve might have."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from experiments.weights import method_weight_seed
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.equal_kl import QUANTITIES, STARTED, USED, Curves, Fitter, Form, Point, Points, root, weights_of, without

LINE = Form("line in ln KL", (root(0), np.log))
FORMS = (
    USED,
    Form("cubic in root KL through the initial policy", (root(1), root(2), root(3)), pinned=True, few=STARTED),
    Form("quadratic in ln KL", (root(0), np.log, lambda kls: np.log(kls) ** 2), few=LINE),
    LINE,
)


def curves(records: Sequence[Record], step: int | None = None) -> Curves:
    """Where the runs of each method and seed ended (test), or were after a step (validation); the smallest KL first."""
    found: dict[str, dict[int, list[Point]]] = defaultdict(lambda: defaultdict(list))
    keys = [quantity.key for quantity in (QUANTITIES if step is None else QUANTITIES[:1])]
    starts: list[list[float]] = []
    for record in records:
        method, beta, seed = method_weight_seed(record)
        if step is None:
            first, rows = record.results["initial"], [record.results["test"]]
        else:
            first, *later = record.results["validation"]
            rows = [row for row in later if row["step"] == step]
        if rows:
            starts.append([float(first[key]) for key in keys])
        for row in rows:
            found[method][seed].append(Point(beta, float(row["kl_mean"]), {key: float(row[key]) for key in keys}))
    start = dict(zip(keys, np.mean(starts, axis=0).tolist(), strict=True)) if starts else {}
    return Curves(start, {m: {s: sorted(points, key=lambda point: point.kl) for s, points in seeds.items()} for m, seeds in found.items()})


def left_out(fits: Fitter, points: Points) -> np.ndarray:
    """[N] errors of each run's quantity by the curve through the runs of all other seeds."""
    weights, errors = weights_of(points), []
    for seed, own in points.items():
        heights = fits.fit(without(points, seed), weights).heights(np.asarray([point.kl for point in own]))
        errors += [point.values[fits.key] - height for point, height in zip(own, heights, strict=True)]
    return np.asarray(errors)
