"""What all figures share: style, legends that fit, labels at lines, and the formats that they are written in."""

from __future__ import annotations

import io
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from grade_lightning.reporting.palette import INK, PAPER

matplotlib.use("Agg")

STYLE: dict[Any, Any] = {
    "figure.constrained_layout.use": True, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True, "grid.alpha": 0.25,
    "text.color": INK, "axes.labelcolor": INK, "axes.edgecolor": INK, "xtick.color": INK, "ytick.color": INK, "svg.fonttype": "none",
    "font.size": 9, "axes.titlesize": 10, "legend.frameon": False, "legend.fontsize": 8, "pdf.fonttype": 42, "savefig.dpi": 160,
    "axes.facecolor": "none",
}  # fmt: skip
NOTE, _PER_INCH = 7.5, 15.5  # points, and characters an inch, of what a figure says about its lines and bands
MOST_ENTRIES = 12  # of a legend inside a page
_LONGEST = 60  # characters of a label in a figure


def panels(columns: int, height: float = 2.9, width: float = 3.7) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(width * columns, height))
    FigureCanvasAgg(figure)  # text can be measured
    return figure, list(np.atleast_1d(figure.subplots(1, columns)))


def describe(axes: Axes, title: str, across: str, up: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)


def note(figure: Figure, text: str) -> None:
    """Say in the figure what its lines, bands and markers are."""
    figure.suptitle(textwrap.fill(text, int(_PER_INCH * figure.get_figwidth())), fontsize=NOTE)


def plain(label: str) -> str:
    """A label that Matplotlib takes as it is: no mathematics, no control characters, not hidden, not too long for a legend."""
    text = " ".join("".join(c if c.isprintable() else " " for c in label).split()).replace("$", r"\$")
    text = text if len(text) <= _LONGEST else text[: _LONGEST - 1].rstrip("\\") + "…"
    return f" {text}" if text.startswith("_") else text


def tag(artists: Artist | Sequence[Artist], *places: int) -> None:
    """Mark what belongs to the variants at these places: the page hides it with them."""
    for artist in artists if isinstance(artists, Sequence) else [artists]:
        artist.set_gid("v" + ".".join(map(str, places)))


def legend(figure: Figure, axes: Axes) -> None:
    """Every label below the panels, in as many columns as the figure is wide; the figure grows by what that takes."""
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    for columns in range(min(5, len(labels)), 0, -1):
        made = figure.legend(handles, labels, loc="outside lower center", ncols=columns, handlelength=3.2)
        box = made.get_window_extent()
        if box.width <= figure.bbox.width or columns == 1:
            break
        made.remove()
    figure.set_figheight(figure.get_figheight() + max(0.0, box.height / figure.dpi - 0.3))


def label_ends(figure: Figure, axes: Axes, ends: Sequence[tuple[float, float, str, str, list[int]]]) -> bool:
    """Write each label beside its point, where none covers another or leaves the axes; False, and nothing written, if they do not fit.

    Args:
        ends: across, up, label, colour and the variants' places of each.
    """
    figure.draw_without_rendering()
    inside = axes.get_window_extent()
    dots = [axes.transData.transform((x, y)) for x, y, *_ in ends]
    taken: list[Any] = []
    written = []
    for (x, y, text, colour, places), (px, py) in zip(ends, dots, strict=True):
        for dx, dy, side in ((7, 0, "left"), (-7, 0, "right"), (0, 9, "center"), (0, -9, "center"), (7, 11, "left"), (7, -11, "left"),
                             (-7, 11, "right"), (-7, -11, "right"), (16, 22, "left"), (16, -22, "left")):  # fmt: skip
            made = axes.annotate(text, (x, y), (dx, dy), textcoords="offset points", ha=side, va="center", fontsize=8, color=colour)
            box = made.get_window_extent()
            free = inside.x0 <= box.x0 and box.x1 <= inside.x1 + 4 and inside.y0 <= box.y0 and box.y1 <= inside.y1
            clear = not any(box.overlaps(other) for other in taken)
            if free and clear and not any(box.contains(ox, oy) for ox, oy in dots if (ox, oy) != (px, py)):
                if places:
                    tag(made, *places)
                taken.append(box)
                written.append(made)
                break
            made.remove()
        else:
            for made in written:
                made.remove()
            return False
    return True


def settle(figure: Figure) -> None:
    """Lay a figure out once, for all its formats."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: Figure, folder: Path, name: str) -> None:
    """As PDF and PNG, without a date inside: the same figure gives the same file."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{name}.pdf", metadata={"CreationDate": None})
        figure.savefig(folder / f"{name}.png", facecolor="white")


def inline_svg(figure: Figure, name: str) -> str:
    """An ``<svg>`` element that takes its ink from the page, light or dark, with ``data-v`` where :func:`tag` marked something.

    A long legend is cut off at the bottom: the page has one of its own.
    """
    text, cut = io.StringIO(), 0.0
    for made in figure.legends if len(_entries(figure)) > MOST_ENTRIES else []:
        cut = made.get_window_extent().height / figure.dpi * 72
        made.set_visible(False)
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
    for made in figure.legends:
        made.set_visible(True)
    found = text.getvalue()
    found = re.sub("<!--.*?-->", "", found, flags=re.DOTALL)
    found = re.sub(r' id="v([\d.]+)"', r' data-v="\1"', found[found.index("<svg") :])
    found = re.sub(r' id="[A-Za-z][A-Za-z0-9]*_\d+"', "", found)  # the same in every figure
    found = re.sub(r' (?:d|x|y)="[^"]*"', lambda match: re.sub(r"(\.\d\d)\d+", r"\1", match[0]), found)
    width, height = figure.get_size_inches() * 72
    head = f'<svg viewBox="0 0 {width:.1f} {height - cut:.1f}" xmlns:xlink="http://www.w3.org/1999/xlink">'
    return (head + found[found.index(">") + 1 :]).replace(INK, "currentColor").replace(PAPER, "var(--card)")


def _entries(figure: Figure) -> list[Any]:
    return [text for made in figure.legends for text in made.get_texts()]
