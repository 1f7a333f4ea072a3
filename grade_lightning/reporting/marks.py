"""Small marks of a page that are no figures: the swatch of a line and the shade of a reward."""

from __future__ import annotations

from markupsafe import Markup

from grade_lightning.reporting.palette import INK, Look

_SHAPES = {
    "o": '<circle cx="17" cy="6" r="3.4"/>', "s": '<rect x="13.8" y="2.8" width="6.4" height="6.4"/>', "^": '<path d="M17 2l4 7h-8z"/>',
    "v": '<path d="M17 10l4-7h-8z"/>', "P": '<path d="M15.6 2h2.8v2.6H21v2.8h-2.6V10h-2.8V7.4H13V4.6h2.6z"/>',
    "X": '<path d="M13.5 4l1.6-1.6L17 4.4l1.9-2L20.5 4 18.6 6l1.9 2-1.6 1.6-1.9-2-1.9 2L13.5 8l1.9-2z"/>',
    "p": '<path d="M17 2l4 3-1.5 5h-5L13 5z"/>',
}  # fmt: skip
_LOW, _HIGH = (213, 94, 0), (0, 114, 178)  # vermilion and blue, which colour-blind readers can tell apart


def swatch(look: Look) -> Markup:
    """A piece of a line with its marker, as it is in the figures."""
    colour = "currentColor" if look.colour == INK else look.colour
    dash = "" if isinstance(look.dash, str) else " ".join(f"{1.5 * length:g}" for length in look.dash[1])
    return Markup(
        '<svg class="swatch" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true"><path d="M0 6h34" stroke="{}" stroke-width="2" '
        'stroke-dasharray="{}"/><g fill="{}">{}</g></svg>'
    ).format(colour, dash, colour, Markup(_SHAPES[look.marker]))  # noqa: S704  our own shapes


def shade(reward: float | None, low: float, high: float) -> str:
    """A colour for CSS: vermilion at the lowest reward, blue at the highest, fainter towards the middle."""
    if reward is None or high <= low:
        return "transparent"
    place = min(1.0, max(0.0, (reward - low) / (high - low)))
    red, green, blue = _HIGH if place >= 0.5 else _LOW
    return f"rgba({red}, {green}, {blue}, {0.04 + 0.5 * abs(place - 0.5):.2f})"
