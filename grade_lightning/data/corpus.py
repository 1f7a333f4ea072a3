"""Reviews, their order, and the four fixed splits of the paper."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Reviews:
    """Reviews, row by row.

    Attributes:
        texts: N texts.
        labels: [N] 0 = negative, 1 = positive, -1 = unlabelled.
    """

    texts: Sequence[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.texts)

    def take(self, rows: np.ndarray) -> Reviews:
        """The given rows, in that order."""
        return Reviews([self.texts[i] for i in rows], self.labels[rows])


@dataclass(frozen=True)
class Corpus:
    """What a source gives; the unsupervised part is loaded only when a base LM is pretrained."""

    train: Reviews
    test: Reviews
    unsupervised: Callable[[], Reviews]


class Source(Protocol):
    """Where reviews come from."""

    def load(self) -> Corpus:
        """Read the labelled parts.

        Raises:
            ValueError: the source is missing or malformed; the message says what to do.
        """
        ...


@dataclass(frozen=True)
class Splits:
    """The four disjoint splits, and the labelled training rows that none of them uses.

    ``duplicates`` counts the texts that stand in two splits; ``fingerprints`` identify the rows and their order.
    """

    reward: Reviews
    policy: Reviews
    validation: Reviews
    test: Reviews
    unused: Reviews
    duplicates: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)


def _digests(texts: Sequence[str]) -> list[bytes]:
    return [hashlib.sha256(text.encode()).digest() for text in texts]


def fingerprint(reviews: Reviews) -> str:
    """A short hash of texts, labels and order."""
    digest = hashlib.sha256()
    for text, label in zip(_digests(reviews.texts), reviews.labels, strict=True):
        digest.update(text + bytes([int(label) + 1]))
    return digest.hexdigest()[:16]


def canonical_order(reviews: Reviews, seed: int) -> Reviews:
    """Rows sorted by the SHA-256 of their raw text, then shuffled by PCG64: the same from every source.

    Sorting first makes the order independent of the file order, which differs between copies of IMDB; the shuffle is
    what mixes the two classes of a corpus that is stored sorted by label.
    """
    digests = _digests(reviews.texts)
    order = np.asarray(sorted(range(len(reviews)), key=lambda i: (digests[i], int(reviews.labels[i]))))
    return shuffled(reviews.take(order), seed)


def shuffled(reviews: Reviews, seed: int) -> Reviews:
    """The rows in an order drawn by PCG64."""
    return reviews.take(np.random.Generator(np.random.PCG64(seed)).permutation(len(reviews)))


def _check_sizes(train: Reviews, test: Reviews, ends: dict[str, int]) -> None:
    if min(ends.values()) < 1 or not len(test):
        raise ValueError("every split needs at least one row: raise data.reward_rows, data.policy_rows and data.validation_rows")
    needed = sum(ends.values())
    if needed > len(train):
        raise ValueError(
            f"the splits need {needed:,} labelled training rows but the source has {len(train):,}: lower "
            f"data.reward_rows ({ends['reward']:,}), data.policy_rows ({ends['policy']:,}) or "
            f"data.validation_rows ({ends['validation']:,})"
        )


def _check_balance(name: str, reviews: Reviews) -> None:
    positive = int((reviews.labels == 1).sum())
    if positive in (0, len(reviews)):
        raise ValueError(
            f"the {name} split holds one class only ({positive:,} of {len(reviews):,} rows are positive). IMDB is stored sorted by "
            "label, so unshuffled leading rows are all negative: check the labels of the source, or raise data.reward_rows"
        )
    if not 0.3 <= positive / len(reviews) <= 0.7:
        log.warning("the %s split is unbalanced: %.0f%% of its rows are positive", name, 100 * positive / len(reviews))


def _drop_seen(reviews: Reviews, seen: set[str]) -> Reviews:
    keep = []
    for row, text in enumerate(reviews.texts):
        if text not in seen:
            seen.add(text)
            keep.append(row)
    return reviews.take(np.asarray(keep, dtype=int))


def _count_duplicates(parts: dict[str, Reviews]) -> dict[str, int]:
    names = list(parts)
    texts = {name: set(part.texts) for name, part in parts.items()}
    pairs = {f"{a}/{b}": len(texts[a] & texts[b]) for i, a in enumerate(names) for b in names[i + 1 :]}
    return {pair: count for pair, count in pairs.items() if count}


def make_splits(
    corpus: Corpus,
    *,
    reward_rows: int = 5000,
    policy_rows: int = 10000,
    validation_rows: int = 2000,
    order: str = "canonical",
    shuffle_seed: int = 42,
    drop_duplicates: bool = False,
) -> Splits:
    """The paper's four splits: reward, policy and validation rows of the training part in turn, and all test rows.

    Args:
        corpus: what a source gave.
        reward_rows: rows that the reward head is trained on.
        policy_rows: rows that the policy's prompts come from.
        validation_rows: rows that validation prompts come from.
        order: ``canonical`` (see :func:`canonical_order`) or ``source`` (the source's own order, shuffled by PCG64; other rows
            for each copy of the data).
        shuffle_seed: seed of the shuffle.
        drop_duplicates: keep only the first row of each text, test rows first, so that no text stands in two splits.

    Raises:
        ValueError: too few rows, or a reward split with one class.
    """
    train, test = corpus.train, corpus.test
    if order == "canonical":
        train, test = canonical_order(train, shuffle_seed), canonical_order(test, shuffle_seed)
    elif order == "source":
        train, test = shuffled(train, shuffle_seed), shuffled(test, shuffle_seed)
    else:
        raise ValueError(f"data.order={order} is unknown: use canonical or source")
    if drop_duplicates:
        seen: set[str] = set()
        test, train = _drop_seen(test, seen), _drop_seen(train, seen)
    sizes = {"reward": reward_rows, "policy": policy_rows, "validation": validation_rows}
    _check_sizes(train, test, sizes)
    rows, start, parts = np.arange(len(train)), 0, {}
    for name, size in sizes.items():
        parts[name], start = train.take(rows[start : start + size]), start + size
    unused = train.take(rows[start:])
    _check_balance("reward", parts["reward"])
    parts["test"] = test
    duplicates = _count_duplicates({**parts, "unused": unused})
    if duplicates:
        log.warning("texts that stand in two splits: %s (data.drop_duplicates=true removes them)", duplicates)
    return Splits(**parts, unused=unused, duplicates=duplicates, fingerprints={n: fingerprint(p) for n, p in parts.items()})
