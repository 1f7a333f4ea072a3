"""Preferences from labels: what follows the opening of a positive review is preferred to what follows that of a negative one."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from grade_lightning.data.corpus import make_splits
from grade_lightning.data.prompts import opening, review_texts
from grade_lightning.data.sources import ParquetSource
from grade_lightning.records.files import write_atomically

WORDS = 40  # of a continuation: about as long as what the policy writes


def _continuation(text: str) -> str:
    return " ".join(text[len(opening(text)) :].split()[:WORDS])


def make_pairs(data: str, out: Path) -> None:
    """Write pairs of the reward split, a positive and a negative review in the order in which they come.

    Args:
        data: folder with IMDB as Parquet.
        out: a JSON Lines file.
    """
    reviews = make_splits(ParquetSource(data).load()).reward
    texts = [_continuation(text) for text in review_texts(reviews, True)]
    sides = [[texts[row] for row in np.flatnonzero(reviews.labels == label) if len(texts[row].split()) == WORDS] for label in (1, 0)]
    out.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps({"chosen": chosen, "rejected": rejected}) for chosen, rejected in zip(*sides, strict=False)]
    write_atomically(out, "\n".join(lines) + "\n")
