"""Which measurements belong to the same prompt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

Prompt = tuple[Any, int]  # its id, and which of the prompts with that id it is


def occurrences(ids: Iterable[Any]) -> list[Prompt]:
    """Keys that are different for every place: (id, how many before it have the same id).

    An id is a hash of the prompt's text, and reviews occur twice.  All evaluations visit the prompts in the same order, each with
    noise of its own, so that the second one with a text is paired with the second one elsewhere.
    """
    seen: Counter[Any] = Counter()
    found = []
    for key in ids:
        found.append((key, seen[key]))
        seen[key] += 1
    return found
