"""The course of one run as a figure."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure


class NotebookFigure(Figure):
    """A figure that notebooks show without a backend of pyplot."""

    def _repr_png_(self) -> bytes:
        stream = io.BytesIO()
        self.savefig(stream, format="png", dpi=110)
        return stream.getvalue()


def training_curves(metrics: Sequence[Mapping[str, float]], validation: Sequence[Mapping[str, Any]]) -> Figure:
    """Reward and KL against policy steps: thin lines for training batches, points for the fixed validation prompts.

    Args:
        metrics: a row a policy step, as in ``metrics.csv``.
        validation: as in ``results.json``.
    """
    figure = NotebookFigure(figsize=(8, 3), layout="constrained")
    panels = figure.subplots(1, 2)
    for axes, name, title in zip(panels, ("reward", "kl"), ("reward", "KL to the reference, nats per token"), strict=True):
        rows = [row for row in metrics if f"train/{name}" in row]
        axes.plot([row["step"] for row in rows], [row[f"train/{name}"] for row in rows], color="#56B4E9", lw=1, label="training batches")
        points = [(row["step"], row[f"{name}_mean"]) for row in validation if f"{name}_mean" in row]
        axes.plot(*zip(*points, strict=True), color="#D55E00", marker="o", ls="--", label="validation prompts")
        axes.set(xlabel="policy steps", title=title)
    panels[0].legend(frameon=False)
    return figure
