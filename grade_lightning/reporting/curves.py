"""The course of one run as a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from grade_lightning.reporting.palette import SKY, VERMILION

_LOOKS: dict[str, dict[str, Any]] = {
    "training batches": {"color": SKY, "lw": 1}, "validation prompts": {"color": VERMILION, "marker": "o", "ls": "--"},
}  # fmt: skip


class NotebookFigure(Figure):
    """A figure that notebooks show without a backend of pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=110)
        return stream.getvalue()


def training_curves(
    metrics: Mapping[str, Sequence[float | None]], validation: Sequence[Mapping[str, Any]], kind: type[Figure] = Figure
) -> Figure:
    """Reward and KL against policy steps: a line for training batches, points for the fixed validation prompts.

    Args:
        metrics: columns of ``metrics.csv``, None where a cell is blank.
        validation: as in ``results.json``.
        kind: of the figure; W&B knows Matplotlib's own class alone.
    """
    figure = kind(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name, title in zip(panels, ("reward", "kl"), ("reward", "KL to the reference, nats per token"), strict=True):
        trained = zip(metrics["step"], metrics.get(f"train/{name}", ()), strict=False)
        lines = {"training batches": [(step, value) for step, value in trained if value is not None]}
        lines["validation prompts"] = [(row["step"], row[f"{name}_mean"]) for row in validation if f"{name}_mean" in row]
        for label, points in lines.items():
            if points:
                axes.plot(*zip(*points, strict=True), label=label, **_LOOKS[label])
        axes.set(xlabel="policy steps", title=title)
    panels[0].legend(frameon=False)
    return figure
