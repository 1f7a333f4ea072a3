"""Names, colours, dashes and markers of methods: one set for every figure, page and study.

Colours are Okabe and Ito's, which colour-blind readers can tell apart.  There are more methods and configurations than such colours, so a
colour that comes twice in a figure comes with another dash and another marker, which also tell lines apart in print.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

INK = "#010203"  # black enough for print; unlike any other colour, so that a page can replace it by its own
PAPER = "#fefdfc"  # the same for the white around markers

ORANGE, SKY, GREEN, BLUE, VERMILION, PURPLE, GREY = "#E69F00", "#56B4E9", "#009E73", "#0072B2", "#D55E00", "#CC79A7", "#7F7F7F"
_SPARE = (GREY, INK, SKY, PURPLE, GREEN, ORANGE, VERMILION, BLUE)

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (1, 1.4)), (0, (7, 2, 1, 2)), (0, (4, 1.5, 1, 1.5, 1, 1.5)))
MARKERS = ("o", "s", "^", "v", "P", "X", "p")

TITLES = {
    "grade": "GRADE", "grade_ste": "GRADE-STE", "ppo": "PPO", "reinforce": "REINFORCE", "rloo": "RLOO", "grpo": "GRPO",
    "hybrid": "Hybrid", "annealed": "Annealed", "decoupled_st": "Decoupled ST", "reinmax": "ReinMax",
    "gumbel_rao": "Gumbel-Rao",
    "grade_ste_nucleus": "GRADE-STE, nucleus", "residual": "Residual", "rloo_cv": "RLOO, control variate", "entrgi": "EntRGi",
    "grad2reward": "Grad2Reward",
}  # fmt: skip
# Colour, and the first pair of dash and marker: solid lines with markers of their own for the first of a colour, dashed for the second.
_METHODS = {
    "grade": (ORANGE, 0), "grade_ste": (BLUE, 15), "ppo": (GREEN, 30), "reinforce": (PURPLE, 10), "rloo": (VERMILION, 25),
    "grpo": (INK, 5), "hybrid": (INK, 20), "decoupled_st": (SKY, 1), "reinmax": (PURPLE, 1), "gumbel_rao": (GREEN, 1),
    "grade_ste_nucleus": (BLUE, 1), "residual": (ORANGE, 1), "rloo_cv": (VERMILION, 1), "entrgi": (INK, 1), "grad2reward": (GREY, 0),
    "annealed": (ORANGE, 2),
}  # fmt: skip
_PAIRS = len(DASHES) * len(MARKERS)  # all different, because the two lengths have no common factor


class Look(NamedTuple):
    """How something is drawn: a colour, a dash and a marker as Matplotlib knows them."""

    colour: str
    dash: Any
    marker: str

    def line(self, **changes: Any) -> dict[str, Any]:
        """Keywords of a line without markers."""
        return {"color": self.colour, "linestyle": self.dash, **changes}

    def marked(self, count: int = 8, points: int = 0, **changes: Any) -> dict[str, Any]:
        """Keywords of a line with about ``count`` markers on its ``points``."""
        return self.line(marker=self.marker, markersize=4, markevery=max(1, points // count), **changes)


def title(method: str) -> str:
    """A method's name for readers; its own where it is not one of ours."""
    return TITLES.get(method, method)


def estimator_title(estimator: str) -> str:
    """The name of an estimator with its settings, as studies of gradients write it: ``grade_ste:tau=1`` is GRADE-STE, tau=1."""
    method, *settings = estimator.split(":")
    return ", ".join([title(method), *settings])


def looks(methods: Sequence[str]) -> list[Look]:
    """A look for each thing in a figure, given its method: its method's colour, and no look twice.

    There are 35 pairs of dash and marker, and a colour's things share them.
    """
    used: set[tuple[str, int]] = set()
    found: list[Look] = []
    strangers: dict[str, str] = {}
    for method in methods:
        colour, start = _METHODS.get(method, ("", 0))
        if not colour:
            colour = strangers.setdefault(method, _SPARE[len(strangers) % len(_SPARE)])
        place = next((p for p in ((start + step) % _PAIRS for step in range(_PAIRS)) if (colour, p) not in used), start)
        used.add((colour, place))
        found.append(Look(colour, DASHES[place % len(DASHES)], MARKERS[place % len(MARKERS)]))
    return found
