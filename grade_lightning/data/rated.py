"""Texts that people (or models) have compared or scored: pairs of completions, and completions with a number."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeVar

import torch
from transformers import PreTrainedTokenizerBase

from grade_lightning.data.chats import Content, fault_of_chat, fault_of_text, without_nulls, written
from grade_lightning.data.tables import columns_of, read_tables


def _whole(prompt: Content | None, answer: Content, tokenizer: PreTrainedTokenizerBase) -> str:
    """Prompt and answer as the policy's base reads them: verbatim, chats by the tokenizer's template."""
    if isinstance(answer, str) and not isinstance(prompt, list):
        return (prompt or "") + answer
    before = prompt if isinstance(prompt, list) else [{"role": "user", "content": prompt}] if prompt else []
    after = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    if tokenizer.chat_template is None:
        raise ValueError("these are chats and the model's tokenizer has no chat template: give texts, or use a model with one")
    return written([*before, *after], tokenizer, "reward.path", begin_answer=False)


def _is_chat(prompt: Content | None, answer: Content) -> bool:
    return isinstance(prompt, list) or isinstance(answer, list)


@dataclass(frozen=True)
class Pair:
    """Two completions of a prompt, of which one is preferred; without a prompt, two whole texts.

    Attributes:
        prompt: a text, or messages of a chat.
        chosen: the same.
        rejected: the same.
    """

    prompt: Content | None
    chosen: Content
    rejected: Content

    @property
    def is_chat(self) -> bool:
        """Whether the model's chat template writes it."""
        return _is_chat(self.prompt, self.chosen)

    def texts(self, tokenizer: PreTrainedTokenizerBase) -> tuple[str, str]:
        """The chosen and the rejected text, after the prompt."""
        return _whole(self.prompt, self.chosen, tokenizer), _whole(self.prompt, self.rejected, tokenizer)

    @property
    def group(self) -> str:
        """What must not stand on both sides of a split."""
        return json.dumps(self.prompt if self.prompt else [self.chosen, self.rejected], sort_keys=True)


@dataclass(frozen=True)
class Rated:
    """A completion of a prompt and what somebody gave it; without a prompt, a whole text.

    Attributes:
        prompt: a text, or messages of a chat.
        completion: the same.
        score: any finite number.
    """

    prompt: Content | None
    completion: Content
    score: float

    @property
    def is_chat(self) -> bool:
        """Whether the model's chat template writes it."""
        return _is_chat(self.prompt, self.completion)

    def text(self, tokenizer: PreTrainedTokenizerBase) -> str:
        """The completion after the prompt."""
        return _whole(self.prompt, self.completion, tokenizer)

    @property
    def group(self) -> str:
        """What must not stand on both sides of a split."""
        return json.dumps(self.prompt or self.completion, sort_keys=True)


Row = TypeVar("Row", Pair, Rated)
MINIMUM_HELD_OUT = 10  # prompts: fewer could not tell a perfect head from chance


def _content(value: Any, column: str, place: str, *, optional: bool = False) -> Content | None:
    if value is None and optional:
        return None
    if isinstance(value, list) and fault_of_chat(value) is None:
        return without_nulls(value)
    if isinstance(value, str) and (fault_of_text(value) is None or (optional and not value.strip())):
        return value
    raise ValueError(f"{place}: the column {column} holds {value!r:.60}, where a text or a list of messages should stand")


def _pair(row: dict[str, Any], place: str) -> Pair:
    chosen, rejected = (_content(row.get(name), name, place) for name in ("chosen", "rejected"))
    assert chosen is not None
    assert rejected is not None
    if chosen == rejected:
        raise ValueError(f"{place}: chosen and rejected are the same text: leave the pair out")
    return Pair(_content(row.get("prompt"), "prompt", place, optional=True), chosen, rejected)


def _rated(row: dict[str, Any], place: str) -> Rated:
    completion = _content(row.get("completion"), "completion", place)
    assert completion is not None
    try:
        score = float(row.get("score"))  # type: ignore[arg-type]
    except (TypeError, ValueError):
        score = math.nan
    if not math.isfinite(score):
        raise ValueError(f"{place}: the column score holds {row.get('score')!r:.60}, no finite number")
    return Rated(_content(row.get("prompt"), "prompt", place, optional=True), completion, score)


# What each kind of row is made of, and how.
_KINDS: dict[str, tuple[tuple[str, ...], Callable[[dict[str, Any], str], Any]]] = {
    "pairs": (("chosen", "rejected"), _pair), "scores": (("completion", "score"), _rated),
}  # fmt: skip


def read_rows(path: str, objective: str, *, split: str = "train", revision: str | None = None) -> list[Any]:
    """Rows of a file, a folder or a data set of the hub, in order.

    Args:
        path: of them.
        objective: ``pairs`` for :class:`Pair`, ``scores`` for :class:`Rated`.
        split: of a data set of the hub.
        revision: of its repository.

    Raises:
        ValueError: nothing there, a missing column, or a cell that is no text or no number; file and row are named.
    """
    columns, make = _KINDS[objective]
    tables = read_tables(path, key="reward.path", split=split, revision=revision)
    found = columns_of(tables)
    missing = [name for name in columns if name not in found]
    if missing:
        raise ValueError(
            f"reward.path={path} has no column {' and no column '.join(missing)} (it has {', '.join(found)}): reward.objective=pairs reads "
            "chosen, rejected and perhaps prompt; scores reads completion, score and perhaps prompt"
        )
    rows = [make(row, table.place(number)) for table in tables for number, row in enumerate(table.rows)]
    groups, chats = len({row.group for row in rows}), {row.is_chat for row in rows}
    if groups < 2 * MINIMUM_HELD_OUT:
        raise ValueError(
            f"reward.path={path} has rows of {groups} different prompts; a head and its held-out rows need at least {2 * MINIMUM_HELD_OUT}"
        )
    if len(chats) > 1:
        raise ValueError(f"reward.path={path} mixes texts and chats: keep one kind")
    return rows


def heldout_split(rows: Sequence[Row], share: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Places to learn from and places held out, such that rows of the same prompt stay together.

    A function of contents and seed alone: the order of the rows does not matter to which are held out.
    """
    digests = [hashlib.sha256(f"{seed} {row.group}".encode()).digest() for row in rows]
    ordered = sorted(set(digests))
    held = set(ordered[: max(MINIMUM_HELD_OUT, round(share * len(ordered)))])
    away = torch.tensor([digest in held for digest in digests])
    return (~away).nonzero()[:, 0], away.nonzero()[:, 0]


def contents_fingerprint(rows: Sequence[Row]) -> str:
    """A short hash of all rows in order."""
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(asdict(row), sort_keys=True).encode())
    return digest.hexdigest()[:16]
