"""VADER's sentiment of a completion: a reward that a lexicon and rules compute, without weights or gradient.

python -m grade_lightning.run method=rloo reward=function reward.function=experiments.rewards.vader:compound ...
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer


@lru_cache(maxsize=1)
def _analyzer() -> SentimentIntensityAnalyzer:
    return SentimentIntensityAnalyzer()


def compound(completions: Sequence[str], **_: Any) -> list[float]:
    """VADER's compound score of each completion, from -1 (most negative) to 1 (Hutto and Gilbert 2014)."""
    return [_analyzer().polarity_scores(text)["compound"] for text in completions]
