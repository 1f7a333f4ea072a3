"""The independent judge."""

from __future__ import annotations

import numpy as np

from grade_lightning.data.corpus import Reviews, make_splits
from grade_lightning.data.sources import ParquetSource
from grade_lightning.data.synthetic import SyntheticSource
from grade_lightning.rewards.judge import train_judge


def test_judge_learns_sentiment_and_ignores_a_coin():
    reviews = SyntheticSource(600, 10, 10).load().train
    judge = train_judge(reviews)
    assert judge.report["rows"] == 480
    assert judge.report["heldout_accuracy_reviews"] > 0.85
    scores = judge(["A wonderful, brilliant, moving film.", "A dreadful, boring, awful film."])
    assert all(0 < score < 1 for score in scores)
    coin = Reviews(reviews.texts, np.random.default_rng(0).integers(0, 2, len(reviews)))
    assert train_judge(coin).report["heldout_accuracy_reviews"] < 0.7


def test_same_rows_same_judge():
    reviews = SyntheticSource(300, 10, 10).load().train
    texts = list(reviews.texts[:20])
    assert train_judge(reviews)(texts) == train_judge(reviews)(texts)


def test_no_judge_without_rows_or_classes(caplog):
    reviews = SyntheticSource(300, 10, 10).load().train
    assert train_judge(reviews.take(np.arange(40))) is None
    assert "no judge" in caplog.text
    assert train_judge(reviews.take(np.flatnonzero(reviews.labels == 1))) is None


def test_judge_on_real_reviews(imdb_folder):
    report = train_judge(make_splits(ParquetSource(imdb_folder).load()).unused).report
    assert report["rows"] + report["heldout_rows"] == 8000
    assert report["heldout_accuracy_reviews"] > 0.85
    assert report["heldout_accuracy_openings"] > 0.7
