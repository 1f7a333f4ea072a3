"""Splits: disjoint, balanced, independent of the source's file order."""

import hashlib

import numpy as np
import pytest

from grade_lightning.data.corpus import Corpus, Reviews, canonical_order, make_splits
from grade_lightning.data.synthetic import SyntheticSource

SIZES = {"reward_rows": 60, "policy_rows": 80, "validation_rows": 20}


def sorted_by_label(rows: int = 200, name: str = "review") -> Reviews:
    labels = np.repeat([0, 1], rows // 2)
    return Reviews([f"{name} {i}" for i in range(rows)], labels)


def corpus(train: Reviews, test: Reviews | None = None) -> Corpus:
    return Corpus(train, test or sorted_by_label(40, "test"), lambda: train)


def test_splits_are_disjoint_and_cover_all_rows():
    train = sorted_by_label()
    splits = make_splits(corpus(train), **SIZES)
    parts = [splits.reward, splits.policy, splits.validation, splits.unused]
    assert [len(part) for part in parts] == [60, 80, 20, 40]
    assert sorted(text for part in parts for text in part.texts) == sorted(train.texts)
    assert splits.duplicates == {}
    label_of = dict(zip(train.texts, train.labels, strict=True))
    assert all(label_of[text] == label for part in parts for text, label in zip(part.texts, part.labels, strict=True))


def test_splits_do_not_depend_on_file_order():
    train = sorted_by_label()
    shuffled = train.take(np.random.default_rng(0).permutation(len(train)))
    assert make_splits(corpus(train), **SIZES).fingerprints == make_splits(corpus(shuffled), **SIZES).fingerprints


def test_canonical_order_is_sha256_then_pcg64():
    reviews = sorted_by_label(10)
    by_hash = sorted(reviews.texts, key=lambda text: hashlib.sha256(text.encode()).hexdigest())
    permutation = np.random.Generator(np.random.PCG64(42)).permutation(10)
    assert list(canonical_order(reviews, 42).texts) == [by_hash[i] for i in permutation]


def test_another_seed_is_another_split():
    train = sorted_by_label()
    first, second = (make_splits(corpus(train), **SIZES, shuffle_seed=seed) for seed in (42, 43))
    assert first.fingerprints["reward"] != second.fingerprints["reward"]


def test_one_class_is_refused_and_says_why():
    train = sorted_by_label()
    with pytest.raises(ValueError, match=r"one class only.*sorted by label"):
        make_splits(corpus(Reviews(train.texts, np.zeros(200, dtype=int))), **SIZES)


def test_source_order_is_shuffled_file_order():
    train = sorted_by_label()
    splits = make_splits(corpus(train), **SIZES, order="source")
    expected = np.random.Generator(np.random.PCG64(42)).permutation(200)[:60]
    assert list(splits.reward.texts) == [train.texts[i] for i in expected]


def test_too_small_a_source_names_the_sizes():
    with pytest.raises(ValueError, match=r"need 160 labelled training rows but the source has 100.*data.policy_rows"):
        make_splits(corpus(sorted_by_label(100)), **SIZES)


def test_duplicates_are_counted_and_dropped():
    train = sorted_by_label()
    texts = list(train.texts)
    texts[150] = texts[0]
    test = sorted_by_label(40)
    test = Reviews([texts[7], *[f"test {i}" for i in range(39)]], test.labels)
    train = Reviews(texts, train.labels)
    counted = make_splits(corpus(train, test), **SIZES).duplicates
    assert sum(counted.values()) in (1, 2)  # the repeated training text may fall into one split
    clean = make_splits(corpus(train, test), **SIZES, drop_duplicates=True)
    assert clean.duplicates == {}
    assert len(clean.unused) == 38


def test_synthetic_reviews_are_reproducible_balanced_and_different():
    first, second = (SyntheticSource(train_rows=300, test_rows=50, unsupervised_rows=50).load() for _ in range(2))
    assert first.train.texts == second.train.texts
    assert first.train.labels.mean() == 0.5
    assert len(set(first.train.texts)) == 300
    assert SyntheticSource(300, 50, 50, seed=1).load().train.texts != first.train.texts
    assert set(first.unsupervised().labels.tolist()) == {-1}


def test_synthetic_openings_do_not_give_the_label_away():
    """scikit-learn cannot tell the label from the first two sentences much better than chance; from the whole it can."""
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    from grade_lightning.data.prompts import opening

    reviews = SyntheticSource(1500, 2, 2).load().train
    judge = make_pipeline(CountVectorizer(ngram_range=(1, 2)), LogisticRegression(max_iter=500))
    prompts = [opening(text) for text in reviews.texts]
    assert cross_val_score(judge, reviews.texts, reviews.labels, cv=3).mean() > 0.95
    # Contrary openings point against the label: what they give away is the opposite of what they say.
    positive_words = ["glowing", "masterpiece", "wonderful", "brilliant"]
    hopeful = [label for prompt, label in zip(prompts, reviews.labels, strict=True) if any(word in prompt for word in positive_words)]
    assert len(hopeful) > 100
    assert np.mean(hopeful) < 0.1
