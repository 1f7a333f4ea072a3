"""Where the points of a figure's lines lie in its SVG, so that a page can show their values."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
from matplotlib.figure import Figure

_POINTS = 72.0  # an inch in an SVG
_MOST = 60  # points of a line
_MOST_OF_ALL = 4000  # points of a figure


def targets(figure: Figure) -> list[dict[str, Any]]:
    """For each marked line: the places of its variants, the names of the axes, and points as [x, y in the SVG, across, up].

    Rounded to what a pointer can tell apart and a reader wants to see.
    """
    found = []
    scale, height = _POINTS / figure.dpi, figure.bbox.height
    marked = [(axes, line) for axes in figure.axes for line in axes.lines if re.fullmatch(r"v[\d.]+", line.get_gid() or "")]
    share = max(2, min(_MOST, _MOST_OF_ALL // max(1, len(marked))))
    for axes, line in marked:
        data = np.column_stack([np.asarray(line.get_xdata(orig=False), float), np.asarray(line.get_ydata(orig=False), float)])
        data = data[np.isfinite(data).all(axis=1)]
        if not len(data):
            continue
        data = data[np.unique(np.linspace(0, len(data) - 1, min(len(data), share)).round().astype(int))]
        pixels = axes.transData.transform(data)
        points = [
            [round(float(px) * scale, 1), round((height - float(py)) * scale, 1), float(f"{x:.4g}"), float(f"{y:.4g}")]
            for (px, py), (x, y) in zip(pixels, data, strict=True)
            if np.isfinite([px, py]).all()
        ]
        places = [int(place) for place in str(line.get_gid())[1:].split(".")]
        found.append({"v": places, "x": axes.get_xlabel(), "y": axes.get_ylabel(), "p": points})
    return found
