"""Markdown around text that others wrote: it stays text, whatever it holds."""

from __future__ import annotations

import re
from collections.abc import Sequence

# Controls, and what turns the direction of writing around: neither shows, and both change what a reader sees.
_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufeff]")


def _fence(text: str, least: int) -> str:
    """More backticks than the text has in a row: nothing in it can end what they enclose."""
    return "`" * max(least, 1 + max(map(len, re.findall("`+", text)), default=0))


def code_block(text: str, language: str = "text") -> str:
    """Lines of text, shown as they are.

    Args:
        text: anything.
        language: for colours; of our own choice, never of the text's.
    """
    seen = _UNSEEN.sub("\N{REPLACEMENT CHARACTER}", re.sub("\r\n?", "\n", text))
    fence = _fence(seen, 3)
    return f"{fence}{language}\n{seen}\n{fence}"


def code(text: object) -> str:
    """A few words within a line or a cell of a table, shown as they are but for line breaks and bars, which would end the cell."""
    words = " ".join(_UNSEEN.sub("\N{REPLACEMENT CHARACTER}", re.sub(r"[\t\r\n]", " ", str(text))).split())
    words = words.replace("|", "\N{BROKEN BAR}") or " "
    fence = _fence(words, 1)
    pad = " " if words.startswith("`") or words.endswith("`") else ""
    return f"{fence}{pad}{words}{pad}{fence}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table; cells of others' text come from :func:`code`."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
