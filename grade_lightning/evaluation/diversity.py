"""Diversity of generated text."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence

SEGMENT = 100  # words
_WORD = re.compile(r"\w+|[^\w\s]")


def distinct_n(completions: Iterable[Sequence[int]], n: int) -> float:
    """Different n-grams over all n-grams of all completions together (Li et al. 2016); nan without any n-gram."""
    total, seen = 0, set()
    for tokens in completions:
        grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
        total += len(grams)
        seen.update(grams)
    return len(seen) / total if total else float("nan")


def repeated_n(tokens: Sequence[int], n: int) -> float:
    """Share of a completion's n-grams that it has said before: 0 for none; 0 too where it is shorter than n."""
    return 0.0 if len(tokens) < n else 1.0 - distinct_n([tokens], n)


def words(text: str) -> list[str]:
    """Lower-case words and punctuation marks."""
    return _WORD.findall(text.lower())


def msttr(texts: Iterable[str], segment: int = SEGMENT) -> float:
    """Mean segmental type-token ratio: all texts in a row, cut into segments of as many words, different words over words of each whole
    segment, averaged (Johnson 1944); nan without a whole segment."""
    row = [word for text in texts for word in words(text)]
    ratios = [len(set(row[i : i + segment])) / segment for i in range(0, len(row) - segment + 1, segment)]
    return math.fsum(ratios) / len(ratios) if ratios else float("nan")


def entropy_n(texts: Iterable[str], n: int) -> float:
    """Shannon entropy, in bits, of the words' n-grams of all texts together; nan without any n-gram."""
    counts: Counter[tuple[str, ...]] = Counter()
    for text in texts:
        row = words(text)
        counts.update(tuple(row[i : i + n]) for i in range(len(row) - n + 1))
    total = counts.total()
    return -math.fsum(c / total * math.log2(c / total) for c in counts.values()) if total else float("nan")
