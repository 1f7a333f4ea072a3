"""What the page of the study draws."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.curves import curves
from experiments.frontier.names import COMPARED, METHOD, NAMES, RATES
from experiments.weights import method_weight_seed
from grade_lightning.records.files import write_atomically
from grade_lightning.records.leaves import read_leaves
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.equal_kl import band, difference
from grade_lightning.reporting.palette import estimator_title, looks
from grade_lightning.study.output import from_json

STUDIES = Path(__file__).parents[1]
# Estimators of hard tokens at the checkpoints of gradient_quality, whose lengths have no intervals, and places of this study, which has.
PLACES = {"initial": "o", "grade_ste": "s", "rloo": "^"}
SHOWN = ("gumbel_rao:tau=1", "reinmax:tau=1", "decoupled_st:tau=1", "grade_ste:tau=2:rollouts=16")
TITLES = {"decoupled_st:tau=1": NAMES["plain"]}
MEASURED = {"initial": ("initial policy", "o"), "rloo-beta0.2-seed6": ("end of a run of RLOO", "v")}
CHECKPOINTS, APART = STUDIES / "gradient_quality" / "gradients.parquet", STUDIES / "frontier" / "measured.parquet"


def _lengths(axes: Axes) -> None:
    """Length against cosine: of the reward's and the KL's gradient with intervals, and of the reward's by more estimators without."""
    stored, own = read_leaves(CHECKPOINTS), read_leaves(APART)
    colours = dict(zip(SHOWN, (look.colour for look in looks([name.split(":")[0] for name in SHOWN])), strict=True))
    for place, marker in PLACES.items():
        found = from_json(stored[f"checkpoints/{place}"])["estimators"]
        for name in SHOWN:
            numbers = found[name]["numbers"]
            axes.plot(numbers["cosine"], numbers["length_ratio"], color=colours[name], ls="", marker=marker, ms=4, alpha=0.35)
    for place, (_, marker) in MEASURED.items():
        for part in ("reward", "kl"):
            for name, entry in from_json(own[f"apart/{place}/{part}"])["estimators"].items():
                if name == "rloo":
                    continue
                cosine, length = (entry["numbers"][key] for key in ("cosine", "length_ratio"))
                bars = [[[value - low], [high - value]] for value, (low, high) in (
                    (value, entry["intervals"][key]) for value, key in ((cosine, "cosine"), (length, "length_ratio"))
                )]  # fmt: skip
                colour = colours[name if name in colours else f"{name}:rollouts=16"]
                axes.errorbar(cosine, length, xerr=bars[0], yerr=bars[1], color=colour, marker=marker, ms=7, capsize=2, ls="",
                              mfc="white" if part == "kl" else colour)  # fmt: skip
    for name in SHOWN:
        title = TITLES.get(name, estimator_title(name.removesuffix(":rollouts=16")))
        axes.plot([], [], color=colours[name], ls="", marker="o", label=title)
    for title, marker in (*MEASURED.values(), ("gradient of the KL", "o")):
        axes.plot([], [], color="0.4", ls="", marker=marker, ms=7, mfc="white" if title == "gradient of the KL" else "0.4", label=title)
    axes.plot([], [], color="0.4", ls="", marker="s", ms=4, alpha=0.35, label="small: other policies, no intervals")
    axes.axhline(1, color="0.8", lw=0.8, zorder=0)
    axes.set(xlabel="cosine to the policy gradient", ylabel="length / RLOO's", yscale="log", title="Gradients: length and direction")
    axes.set_yticks([0.15, 0.2, 0.3, 0.5, 1.0], ["0.15", "0.2", "0.3", "0.5", "1"], minor=False)
    axes.minorticks_off()
    axes.legend(frameon=False, fontsize=7, loc="center left")


def draw_weights(records: Sequence[Record], out: Path) -> None:
    """Test reward and KL against the weight of the KL over c at the initial policy: if nothing else mattered, curves would be one."""
    found = from_json(read_leaves(CHECKPOINTS)["checkpoints/initial"])["estimators"]
    specs = {"plain": "decoupled_st:tau=1", "ste": "grade_ste:tau=2:rollouts=16"}
    share = {"rloo": 1.0, **{name: found[spec]["numbers"]["projection"] for name, spec in specs.items()}}
    figure = Figure(figsize=(10, 3.8), layout="constrained")
    panels = dict(zip(("reward_mean", "kl_mean"), figure.subplots(1, 2), strict=True))
    for (method, c), look in zip(share.items(), looks([METHOD.get(m, m) for m in share]), strict=True):
        points: dict[float, list[dict[str, float]]] = defaultdict(list)
        for record in records:
            own, beta, _ = method_weight_seed(record)
            if own == method:
                points[float(beta) / c].append(record.results["test"])
        for key, axes in panels.items():
            every = [(weight, test[key]) for weight, tests in points.items() for test in tests]
            axes.plot(*zip(*every, strict=True), color=look.colour, ls="", marker=look.marker, markersize=3, alpha=0.6)
            means = [(weight, float(np.mean([test[key] for test in tests]))) for weight, tests in sorted(points.items())]
            axes.plot(*zip(*means, strict=True), **look.line(label=f"{NAMES[method]}, c = {c:.2f}"))
    panels["reward_mean"].set(ylabel="test reward", title="60 steps at rate 3e-3")
    panels["kl_mean"].set(ylabel="KL to the reference, nats per token", yscale="log")
    for axes in panels.values():
        axes.set(xlabel="beta / c, c at the initial policy", xscale="log")
        axes.legend(frameon=False, fontsize=7)
    write_atomically(out, lambda partial: figure.savefig(partial, format="png", dpi=110))


def _frontiers(axes: Axes, records: Sequence[Record], curve: Sequence[dict[str, Any]], title: str) -> None:
    """Test reward against test KL: every run a point, each method's curve with its band over seeds."""
    found = curves(records)
    shown = {m: seeds for m, seeds in found.methods.items() if m in COMPARED}
    for (method, seeds), look in zip(shown.items(), looks([METHOD.get(m, m) for m in shown]), strict=True):
        every = [(run.kl, run.values["reward_mean"]) for runs in seeds.values() for run in runs]
        axes.plot(*zip(*every, strict=True), color=look.colour, ls="", marker=look.marker, markersize=3, alpha=0.6)
        grid = np.geomspace(min(kl for kl, _ in every), max(kl for kl, _ in every), 60)
        low, middle, high = band(found, method, grid)
        axes.plot(grid, middle, **look.line(label=f"{NAMES[method]}, {len(seeds)} seeds"))
        axes.fill_between(grid, low, high, color=look.colour, alpha=0.15, lw=0)
    if curve:
        axes.plot([row["kl_mean"] for row in curve], [row["reward_mean"] for row in curve], color="0.5", ls=":", label="best of n, n to 64")
    axes.set(xlabel="KL to the reference, nats per token", ylabel="test reward", title=title, xlim=(0, None))
    axes.legend(frameon=False, fontsize=7, loc="lower right")


def _leads(axes: Axes, records: Sequence[Record], steps: Sequence[int]) -> None:
    """Validation reward beyond RLOO's at equal KL, by steps, with Student's interval over seeds."""
    found = {step: curves(records, step) for step in steps}
    methods = ("plain", "grpo_average", "annealed", "annealed_grpo", "annealed_no_hops")
    for shift, (method, look) in enumerate(zip(methods, looks([METHOD.get(m, m) for m in methods]), strict=True)):
        compared = {step: difference(one, method, "rloo") for step, one in found.items()}
        known = [(step + 3 * shift, *one.values["reward_mean"]) for step, one in compared.items() if one.values]
        said = [(place, interval) for place, _, interval in known if interval is not None]
        if said:
            ends = [[i.mean - i.low for _, i in said], [i.high - i.mean for _, i in said]]
            places, means = [place for place, _ in said], [i.mean for _, i in said]
            axes.errorbar(places, means, ends, color=look.colour, ls=look.dash, marker=look.marker, ms=5, capsize=3, label=NAMES[method])
    axes.axhline(0, color="0.8", lw=0.8, zorder=0)
    title = f"The lead while training, rate {RATES['slow']}"
    axes.set(xlabel="policy steps", ylabel="reward beyond RLOO's at equal KL", title=title)
    axes.legend(frameon=False, fontsize=7)


def draw(found: Mapping[str, Sequence[Record]], curve: Sequence[dict[str, Any]], steps: Sequence[int], out: Path) -> None:
    """The page's figure.

    Args:
        found: runs by part.
        curve: best of n.
        steps: after which the lead is shown.
        out: file.
    """
    figure = Figure(figsize=(15, 4.2), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    both = [*found["slow"], *found["fresh"]]
    _lengths(left)
    _frontiers(middle, both, curve, f"Reward against KL, rate {RATES['slow']}")
    _leads(right, both, steps)
    write_atomically(out, lambda partial: figure.savefig(partial, format="png", dpi=110))
