"""Diversity of generated text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


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
