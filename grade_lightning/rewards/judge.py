"""An independent judge of sentiment: another architecture, trained on other reviews than the reward.

A reward that is optimised stops measuring what it measured; what a judge that nobody optimises says of the same text shows it
(Gao et al. 2210.10760).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from torch import Tensor

from grade_lightning.data.corpus import Reviews
from grade_lightning.data.prompts import review_texts
from grade_lightning.rewards.base import Completions, Reward, RewardInputs

log = logging.getLogger(__name__)

MIN_ROWS = 100
_WORDS = 60  # of an opening: about the length of a prompt with its completion


@dataclass(frozen=True)
class Judge:
    """TF-IDF and logistic regression.

    Attributes:
        model: the fitted pipeline.
        report: rows it was trained on, and its held-out accuracy on whole reviews and on their openings.
    """

    model: Pipeline
    report: dict[str, float]

    differentiable: ClassVar[bool] = False
    soft: ClassVar[bool] = False
    range: ClassVar[tuple[float | None, float | None]] = (0.0, 1.0)
    vocabulary: ClassVar[int | None] = None
    reads_states: ClassVar[bool] = False

    def __call__(self, texts: Sequence[str]) -> list[float]:
        """P(positive) of each text."""
        return [float(p) for p in self.model.predict_proba(list(texts))[:, 1]]

    def score(self, completions: Completions) -> Tensor:
        """[B] P(positive) of prompt and completion as one text."""
        return torch.tensor(self(completions.whole_texts), device=completions.ids.device)

    def scoped(self, scope: str) -> Reward | None:
        """None: it reads prompt and completion."""
        return None


def _opening(text: str) -> str:
    return " ".join(text.split()[:_WORDS])


def train_judge(unused: Reviews, *, clean_html: bool = True) -> Judge | None:
    """A judge from labelled rows that none of the four splits uses, a fifth of them held out.

    It learns from whole reviews and from their openings, because what it will read is no longer than an opening.  Deterministic, and
    made anew in each run: seconds.

    Returns:
        None, with a warning, where there are too few rows.
    """
    held = len(unused) // 5
    learn, test = unused.take(np.arange(held, len(unused))), unused.take(np.arange(held))
    if len(unused) < MIN_ROWS or min(len(set(learn.labels)), len(set(test.labels))) < 2:
        log.warning(
            "no judge: %d labelled training rows are left by the splits, %d with both classes are needed "
            "(lower data.reward_rows or data.policy_rows)", len(unused), MIN_ROWS,
        )  # fmt: skip
        return None
    texts, heldout = review_texts(learn, clean_html), review_texts(test, clean_html)
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), min_df=3, max_features=100_000, sublinear_tf=True),
        LogisticRegression(C=10.0, solver="liblinear", random_state=0),
    )
    model.fit([*texts, *map(_opening, texts)], np.concatenate([learn.labels, learn.labels]))
    report = {
        "rows": len(learn), "heldout_rows": len(test),
        "heldout_accuracy_reviews": float(model.score(heldout, test.labels)),
        "heldout_accuracy_openings": float(model.score([_opening(t) for t in heldout], test.labels)),
    }  # fmt: skip
    return Judge(model, report)


def classifier_judge(inputs: RewardInputs) -> tuple[Judge | None, dict[str, float]]:
    """The judge that every run with labelled reviews has, and its report; None where there is nothing that it could learn from."""
    made = None if inputs.splits is None else train_judge(inputs.splits.unused, clean_html=inputs.clean_html)
    return made, {} if made is None else made.report
