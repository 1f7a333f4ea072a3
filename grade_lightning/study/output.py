"""A study's results as a table and a figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import matplotlib

from grade_lightning.reporting.drawing import STYLE, label_ends, legend, note, panels, plain, save, settle
from grade_lightning.reporting.palette import Look, estimator_title, looks
from grade_lightning.reporting.table import Table
from grade_lightning.study.moments import GRID

_SHOWN = (
    ("cosine", ".2f"),
    ("length_ratio", ".2f"),
    ("projection", ".2f"),
    ("nvr_rollout", ".1f"),
    ("rho_16", ".3f"),
    ("rho_64", ".3f"),
    ("rho_256", ".3f"),
    ("gain_16", ".2f"),
)


UNKNOWN = "not known"


def _cell(entry: dict[str, Any], name: str, spec: str) -> str:
    value, interval = entry["numbers"][name], entry["intervals"].get(name)
    said = UNKNOWN if math.isnan(value) else format(value, spec)
    if interval is None or (math.isnan(value) and math.isnan(interval[0])):  # no interval: of an earlier version, which did not resample it
        return said
    return f"{said} [{UNKNOWN if math.isnan(interval[0]) else ', '.join(format(end, spec) for end in interval)}]"


def _crossover(entry: dict[str, Any], unit: str) -> str:
    if unit not in entry["crossovers"]:
        return ""
    place, ends = _place(entry["crossovers"][unit]), [_place(end) for end in entry["crossover_intervals"][unit]]
    if set(ends) == {UNKNOWN}:
        return place if place == UNKNOWN else f"{place} [{UNKNOWN}]"
    return f"{place} [{', '.join(ends)}]"


def _place(cost: float) -> str:
    return UNKNOWN if math.isnan(cost) else "never" if math.isinf(cost) else f"{cost:,.0f}" if cost else "from the start"


def for_json(found: dict[str, Any]) -> dict[str, Any]:
    """Results for JSON, which has no infinity: an infinite cost is "never"; null is for what noise leaves unknown."""

    def cost(value: float) -> float | str:
        return "never" if math.isinf(value) else value

    estimators = {
        label: {
            **entry,
            "crossovers": {unit: cost(value) for unit, value in entry["crossovers"].items()},
            "crossover_intervals": {unit: [cost(end) for end in ends] for unit, ends in entry["crossover_intervals"].items()},
        }
        for label, entry in found["estimators"].items()
    }
    return {**found, "estimators": estimators}


def from_json(found: dict[str, Any]) -> dict[str, Any]:
    """Results as :func:`for_json` and JSON leave them, back as numbers: null as nan, "never" as infinity."""

    def number(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: number(item) for key, item in value.items()}
        if isinstance(value, list):
            return [number(item) for item in value]
        return math.nan if value is None else math.inf if value == "never" else value

    estimators = number(found["estimators"])
    target = estimators[found["reference"]]["numbers"]["mu_square"]
    for entry in estimators.values():  # what earlier versions did not derive
        numbers = entry["numbers"]
        known = min(numbers["mu_square"], target) > 0
        ratio = math.sqrt(numbers["mu_square"] / target) if known else math.nan
        numbers.setdefault("length_ratio", ratio)
        numbers.setdefault("projection", ratio * numbers["cosine"])
    return {**found, "estimators": estimators}


def table(found: dict[str, Any]) -> Table:
    """A row for each estimator, 95% intervals over prompts in brackets."""
    rows = []
    for label, entry in found["estimators"].items():
        numbers = entry["numbers"]
        rows.append({
            "estimator": label, **{name: _cell(entry, name, spec) for name, spec in _SHOWN},
            "noise": numbers["trace_noise"] / numbers["mean_square"], "prompt": numbers["trace_prompt"] / numbers["mean_square"],
            "spread": entry["tensor_spread"], "seconds": entry["seconds_per_rollout"], **{
                f"crossover_{unit}": _crossover(entry, unit) for unit in ("rollouts", "tokens", "seconds")
            },
        })  # fmt: skip
    columns = [
        ("estimator", "Estimator", ""), ("cosine", "Cosine", ""), ("length_ratio", "Length / RLOO's", ""), ("projection", "c", ""),
        ("nvr_rollout", "NVR of a rollout", ""), ("rho_16", "rho_16", ""),
        ("rho_64", "rho_64", ""), ("rho_256", "rho_256", ""), ("gain_16", "rho_16 / RLOO's", ""),
        ("noise", "Noise, share of E||g||^2", ".0%"), ("prompt", "Prompts", ".0%"),
        ("spread", 'Paper\'s "Grad Var"', ".2g"), ("seconds", "Seconds a rollout", ".3f"),
        ("crossover_rollouts", "RLOO overtakes at rollouts", ""),
        ("crossover_tokens", "tokens", ""), ("crossover_seconds", "seconds", ""),
    ]  # fmt: skip
    notes = [
        f"{found['prompts']} prompts x {found['draws']} draws of {found['rollouts']} completions; cosine to the mean of the reference "
        f"({found['reference']}, unbiased) over other prompts; rho_N = cosine / sqrt(1 + NVR / N), N rollouts of N / G prompts, G as the "
        "method trains (a draw's completions where a method compares those of one prompt, else 1).",
        "c = cosine x length ratio: a KL of its full length beside such a reward gradient weighs beta / c.",
        "Overtakes: from where on the reference's curve of rho stays the higher one, within 4 to 4,096 rollouts of both, with a 95% "
        "interval over prompts.",
    ]
    if any(UNKNOWN in str(cell) for row in rows for cell in row.values()):
        notes.append(
            f"{UNKNOWN}: noise leaves a squared length at or below 0, or no curve, in more than one resample of forty; with "
            f"{found['prompts']} prompts these are questions that were not answered: raise prompts=, draws= or rollouts=."
        )
    return Table("Gradient quality", columns, rows, notes)


def figure(found: dict[str, Any], folder: Path) -> None:
    """rho against rollouts, generated tokens and seconds."""
    look = _looks(found)
    with matplotlib.rc_context(STYLE):
        drawn, axes = panels(3, 3.6, 3.9)
        for panel, unit in zip(axes, ("rollouts", "tokens", "seconds"), strict=True):
            for name, entry in found["estimators"].items():
                across, style = [n * entry["cost"][unit] for n in GRID], look[name].marked(points=len(GRID), count=5)
                panel.plot(across, entry["curve"], label=plain(estimator_title(name)), linewidth=1.4, **style)
            panel.set(xscale="log", xlabel=unit, ylim=(0, 1.03))
        axes[0].set_ylabel("rho: worth of a normalised step")
        note(drawn, "lines: rho of a mean over so much, computed from each estimator's cosine and noise; not smoothed")
        legend(drawn, axes[0])
        settle(drawn)
        save(drawn, folder, "rho")
        _lengths(found, folder, look)


def _looks(found: dict[str, Any]) -> dict[str, Look]:
    """Looks of estimators by name: a method's colour, its settings by dash and marker."""
    names = list(found["estimators"])
    return dict(zip(names, looks([name.split(":")[0] for name in names]), strict=True))


def _lengths(found: dict[str, Any], folder: Path, look: dict[str, Look]) -> None:
    """Length against cosine, each relative to the reference, with 95% intervals."""
    rows = {
        name: (entry["numbers"], entry["intervals"])
        for name, entry in found["estimators"].items()
        if not math.isnan(entry["numbers"].get("length_ratio", math.nan))
    }
    if not rows:
        return
    drawn, (panel,) = panels(1, 4.2, 5.6)
    ends: list[tuple[float, float, str, str, list[int]]] = []
    for name, (numbers, intervals) in rows.items():
        x, y, style = numbers["cosine"], numbers["length_ratio"], look[name]
        errors = [[[abs(at - end) if not math.isnan(end) else 0.0] for end in intervals.get(key, (math.nan, math.nan))]
                  for at, key in ((x, "cosine"), (y, "length_ratio"))]  # fmt: skip
        panel.errorbar(
            x, y, xerr=errors[0], yerr=errors[1], fmt=style.marker, color=style.colour, markersize=5, linewidth=0.8,
            label=plain(estimator_title(name)),
        )  # fmt: skip
        ends.append((x, y, plain(estimator_title(name)), style.colour, []))
    panel.axhline(1, color="0.6", linewidth=0.8)
    reference = estimator_title(found["reference"])
    panel.set(xlabel=f"cosine to {reference}'s mean", ylabel=f"length over {reference}'s", yscale="log")
    note(drawn, "bars: 95% intervals over prompts")
    if not label_ends(drawn, panel, ends):
        legend(drawn, panel)
    settle(drawn)
    save(drawn, folder, "length")
