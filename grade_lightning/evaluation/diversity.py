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
