"""Gao's forms fitted to proxy and gold rewards over d = sqrt(KL), and gold rewards at equal KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import read_leaves
from grade_lightning.records.study_table import Record, read_table
from grade_lightning.reporting.equal_kl import QUANTITIES, USED, Curves, Point, difference, said
from grade_lightning.reporting.significance import few_interval
from grade_lightning.reporting.table import Table

KLS = (1.0, 4.0, 9.0, 16.0, 25.0)  # nats per completion
CURVED = (0.5, 40.0)  # KLs between which measurements of a run are points of its method's curve
ACROSS = (("plain", "rloo"), ("plain", "rloo_slow"), ("rloo_slow", "rloo"))


def fit(d: np.ndarray, gain: np.ndarray, *, best_of_n: bool = False) -> tuple[float, float]:
    """Least squares of the rise of the reward: d (alpha - beta ln d), of best of n d (alpha - beta d).  d [N] > 0, gain [N]."""
    second = d if best_of_n else np.log(d)
    (alpha, beta), *_ = np.linalg.lstsq(np.stack([d, -d * second], axis=1), gain, rcond=None)
    return float(alpha), float(beta)


def trajectory(record: Record) -> dict[str, np.ndarray]:
    """Of a run's validations: d [N], and rises [N] of both rewards."""
    rows = record.results["validation"]
    d = np.sqrt([max(0.0, row["kl_sequence_mean"]) for row in rows])
    return {"d": d, **{name: np.asarray([row[key] - rows[0][key] for row in rows]) for name, key in _KEYS.items()}}


_KEYS = {"proxy": "reward_mean", "gold": "judge_gold_mean", "judge": "judge_mean"}  # the judge is a bag of words: it shares no base


def of_curve(curve: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The same of a best-of-n curve."""
    d = np.sqrt([row["kl_sequence_mean"] for row in curve])
    return {"d": d, **{name: np.asarray([row[key] - curve[0][key] for row in curve]) for name, key in _KEYS.items()}}


def at(path: dict[str, np.ndarray], kl: float, name: str) -> float:
    """Rise of a reward where a path first comes to a KL, linear in d between measurements; nan where it never does."""
    d, values = path["d"], path[name]
    beyond = np.flatnonzero(d >= np.sqrt(kl))
    if not len(beyond):
        return float("nan")
    if beyond[0] == 0:
        return float(values[0])
    low, high = beyond[0] - 1, beyond[0]
    share = (np.sqrt(kl) - d[low]) / (d[high] - d[low])
    return float(values[low] + share * (values[high] - values[low]))


def paths(records: Path, measured: Path) -> dict[tuple[str, int, int], dict[str, np.ndarray]]:
    """By method, rows of the proxy and seed; best of n has seed 0, and ``rloo_slow`` is RLOO at straight-through's rate."""
    found = {}
    for record in [record for part in ("runs", "control") for record in read_table(records, part=part)]:
        method, rows, seed = record.name.split("-")
        found[method, int(rows.removeprefix("rows")), int(seed.removeprefix("seed"))] = trajectory(record)
    for name, result in read_leaves(measured).items():
        found["best_of_n", int(name.split("/")[1]), 0] = of_curve(result["curve"])
    return found


def _interval(values: Sequence[float]) -> str:
    known = [value for value in values if np.isfinite(value)]
    if len(known) < 2:
        return f"{known[0]:.3f}" if known else ""
    interval = few_interval(known)
    return f"{interval.mean:.3f} [{interval.low:.3f}, {interval.high:.3f}]"


def write(records: Path, measured: Path, out: Path) -> None:
    """Tables ``fits.md`` and ``equal_kl.md`` from the records."""
    found = paths(records, measured)
    rows = []
    for method, count, seed in sorted(found):
        path = found[method, count, seed]
        used, row = path["d"] > 0.1, {"method": method, "rows": count, "seed": seed}
        for name in ("proxy", "gold"):
            row[f"{name}_alpha"], row[f"{name}_beta"] = fit(path["d"][used], path[name][used], best_of_n=method == "best_of_n")
        top = int(np.argmax(path["gold"]))
        rows.append({**row, "peak": float(path["gold"][top]), "peak_kl": float(path["d"][top] ** 2), "last_kl": float(path["d"][-1] ** 2)})
    columns = [
        ("method", "method", ""), ("rows", "rows of the proxy", "d"), ("seed", "seed", "d"), ("proxy_alpha", "alpha proxy", ".3f"),
        ("proxy_beta", "beta proxy", ".3f"), ("gold_alpha", "alpha gold", ".3f"), ("gold_beta", "beta gold", ".3f"),
        ("peak", "largest rise of gold (of noisy points)", ".3f"),
        ("peak_kl", "at KL, nats/completion", ".1f"), ("last_kl", "last KL", ".1f"),
    ]  # fmt: skip
    write_atomically(out / "fits.md", Table("Gao's forms", columns, rows, []).markdown())
    start = read_table(records, part="runs")[0].results["validation"][0]
    tables = (equal_kl(found), by_curves(found, {name: float(start[key]) for name, key in _KEYS.items()}))
    write_atomically(out / "equal_kl.md", "\n\n".join(table.markdown() for table in tables))


def equal_kl(found: dict[tuple[str, int, int], dict[str, np.ndarray]]) -> Table:
    """Rises of gold at equal KL: each method's mean, and plain straight-through less RLOO over pairs of proxy and seed."""
    pairs = sorted({(rows, seed) for method, rows, seed in found if method == "rloo"} & {(r, s) for m, r, s in found if m == "plain"})
    shown = []
    for kl in KLS:
        row: dict[str, Any] = {"kl": kl}
        for name in _KEYS:
            both = {method: [at(found[method, *pair], kl, name) for pair in pairs] for method in ("rloo", "plain")}
            row[f"{name}_difference"] = _interval([b - a for a, b in zip(both["rloo"], both["plain"], strict=True)])
            row |= {f"{name}_{method}": _interval(values) for method, values in both.items()}
        slow = sorted(tuple(pair) for method, *pair in found if method == "rloo_slow")
        for name in ("gold", "judge"):
            both = {method: [at(found[method, *pair], kl, name) for pair in slow] for method in ("plain", "rloo_slow")}
            row[f"{name}_slow"] = _interval([b - a for a, b in zip(both["rloo_slow"], both["plain"], strict=True)])
        row["best_of_n"] = _interval([at(path, kl, "gold") for (method, _, _), path in sorted(found.items()) if method == "best_of_n"])
        shown.append(row)
    columns = [
        ("kl", "KL, nats/completion", ".0f"), ("gold_rloo", "gold: RLOO", ""), ("gold_plain", "plain straight-through", ""),
        ("gold_difference", "difference", ""), ("gold_slow", "gold: to RLOO at its rate", ""),
        ("best_of_n", "best of n", ""), ("proxy_difference", "difference of proxies", ""), ("judge_difference", "of the judge", ""),
        ("judge_slow", "judge: to RLOO at its rate", ""),
    ]  # fmt: skip
    return Table(
        "Rises at equal KL",
        columns,
        shown,
        [
            "Gold is the rise of the gold reward. 95% intervals over pairs of proxy and seed, which share prompts; best of n over proxies. "
            "To RLOO at its rate: straight-through less RLOO at the same learning rate, a seed of each proxy."
        ],
    )


def by_curves(found: Mapping[tuple[str, int, int], Mapping[str, np.ndarray]], start: Mapping[str, float]) -> Table:
    """What methods have beyond others at equal KL by curves through all measurements of their runs, whichever came first to a KL.

    Args:
        found: of :func:`paths`. start: rewards of the initial policy.
    """
    gold, judge, *_ = QUANTITIES  # fitted as those of other studies are: the gold reward is the reward here
    shown = []
    for pair in ACROSS:
        first, second = ({(rows, seed) for method, rows, seed in found if method == name} for name in pair)
        runs = sorted(first & second)
        methods = {name: {place: _points(found[name, *run], start) for place, run in enumerate(runs)} for name in pair}
        one = difference(Curves({gold.key: start["gold"], judge.key: start["judge"]}, methods), *pair)
        row = {"pair": " beyond ".join(pair), "kls": one.where, "runs": one.seeds}
        shown.append({**row, **{quantity.key: said(*one.values[quantity.key], quantity) for quantity in (gold, judge)}})
    columns = [
        ("pair", "", ""),
        ("kls", "KLs, nats/completion", ""),
        ("runs", "Pairs of runs", "d"),
        (gold.key, "Gold", ""),
        (judge.key, "Judge", ""),
    ]
    note = (
        f"Curves through all measurements of a method's runs, {USED.title} of the logit, mean difference over the KLs that both enclose, "
        "evenly in their logarithm; Student's 95% interval of the jackknife over pairs of proxy and seed."
    )
    return Table("By curves", columns, shown, [note])


def _points(path: Mapping[str, np.ndarray], start: Mapping[str, float]) -> list[Point]:
    """The measurements of a run between two KLs; each stands where a run of a weight of its own would."""
    gold, judge, *_ = QUANTITIES
    rises = zip(path["d"] ** 2, path["gold"], path["judge"], strict=True)
    inside = [(kl, a, b) for kl, a, b in rises if CURVED[0] < kl < CURVED[1]]
    return [Point(str(place), kl, {gold.key: start["gold"] + a, judge.key: start["judge"] + b}) for place, (kl, a, b) in enumerate(inside)]
