"""Gao's forms fitted to proxy and gold rewards over d = sqrt(KL), and gold rewards at equal KL."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import read_leaves
from grade_lightning.records.study_table import Record, read_table
from grade_lightning.reporting.equal_kl import QUANTITIES, USED, Curves, Point, difference, said
from grade_lightning.reporting.palette import looks
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
    """Tables ``fits.md`` and ``equal_kl.md`` and the figure ``rewards.png`` from the records."""
    found = paths(records, measured)
    fits = [_fits(key, path) for key, path in sorted(found.items())]
    columns = [
        ("method", "method", ""), ("rows", "rows of the proxy", "d"), ("seed", "seed", "d"),
        *((key, title, ".3f") for key, title in _COEFFICIENTS.items()),
        ("peak", "largest rise of gold (of noisy points)", ".3f"),
        ("peak_kl", "at KL, nats/completion", ".1f"), ("last_kl", "last KL", ".1f"),
    ]  # fmt: skip
    tables = (coefficients(fits), Table("Gao's forms", columns, fits, []))
    write_atomically(out / "fits.md", "\n\n".join(table.markdown() for table in tables))
    start = read_table(records, part="runs")[0].results["validation"][0]
    tables = (equal_kl(found), by_curves(found, {name: float(start[key]) for name, key in _KEYS.items()}))
    write_atomically(out / "equal_kl.md", "\n\n".join(table.markdown() for table in tables))
    draw(found, out / "rewards.png")


_COEFFICIENTS = {"proxy_alpha": "alpha proxy", "proxy_beta": "beta proxy", "gold_alpha": "alpha gold", "gold_beta": "beta gold"}


def _fits(key: tuple[str, int, int], path: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Coefficients of a path, and how far gold rose."""
    method, count, seed = key
    used, row = path["d"] > 0.1, {"method": method, "rows": count, "seed": seed}
    for name in ("proxy", "gold"):
        row[f"{name}_alpha"], row[f"{name}_beta"] = fit(path["d"][used], path[name][used], best_of_n=method == "best_of_n")
    top = int(np.argmax(path["gold"]))
    return {**row, "peak": float(path["gold"][top]), "peak_kl": float(path["d"][top] ** 2), "last_kl": float(path["d"][-1] ** 2)}


def coefficients(fits: Sequence[Mapping[str, Any]]) -> Table:
    """Coefficients of each method over its runs, and of plain straight-through less those of RLOO on the same proxy and seed."""
    by_method: dict[str, dict[tuple[int, int], Mapping[str, Any]]] = {}
    for row in fits:
        by_method.setdefault(row["method"], {})[row["rows"], row["seed"]] = row
    shown = []
    for method, rows in by_method.items():
        shown.append({"method": method, "runs": len(rows), **{k: _interval([row[k] for row in rows.values()]) for k in _COEFFICIENTS}})
    for reference in ("rloo", "rloo_slow"):
        pairs = sorted(by_method["plain"].keys() & by_method.get(reference, {}).keys())
        less = {k: _interval([by_method["plain"][p][k] - by_method[reference][p][k] for p in pairs]) for k in _COEFFICIENTS}
        shown.append({"method": f"plain less {reference}", "runs": len(pairs), **less})
    columns = [("method", "method", ""), ("runs", "runs", "d"), *((key, title, "") for key, title in _COEFFICIENTS.items())]
    note = "Student's 95% intervals over runs, of pairs over the same proxy and seed; best of n, whose form is another one, over proxies."
    return Table("Coefficients", columns, shown, [note])


def draw(found: Mapping[tuple[str, int, int], Mapping[str, np.ndarray]], out: Path) -> None:
    """Rises of proxy and gold against d, a panel for each proxy; lines are Gao's form fitted to the gold of all runs of a method there."""
    counts = sorted({rows for _, rows, _ in found})
    figure = Figure(figsize=(15, 3.8), layout="constrained")
    for axes, count in zip(figure.subplots(1, len(counts), sharey=True), counts, strict=True):
        for method, (title, package) in DRAWN.items():
            (look,) = looks([package])
            runs = [path for (m, rows, _), path in found.items() if (m, rows) == (method, count)]
            if not runs:
                continue
            d, gold, proxy = (np.concatenate([path[key] for path in runs]) for key in ("d", "gold", "proxy"))
            axes.plot(d, gold, color=look.colour, ls="", marker=look.marker, ms=3, label=f"{title}: gold")
            axes.plot(d, proxy, color=look.colour, ls="", marker=look.marker, ms=3, alpha=0.25, label=f"{title}: proxy")
            grid, best = np.linspace(0.11, d.max(), 80), method == "best_of_n"
            alpha, beta = fit(d[d > 0.1], gold[d > 0.1], best_of_n=best)
            axes.plot(grid, grid * (alpha - beta * (grid if best else np.log(grid))), color=look.colour, lw=1)
        axes.set(xlabel="sqrt(KL), nats per completion", title=f"proxy of {count:,} reviews")
    figure.axes[0].set_ylabel("rise of the reward")
    figure.axes[0].legend(frameon=False, fontsize=7)
    write_atomically(out, lambda partial: figure.savefig(partial, format="png", dpi=110))


DRAWN = {
    "rloo": ("RLOO", "rloo"), "rloo_slow": ("RLOO at 3e-4", "reinforce"), "plain": ("plain straight-through", "decoupled_st"),
    "best_of_n": ("best of n", "best_of_n"),
}  # fmt: skip


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
