"""Prompts by the paper's rule, and the left-padded batches they travel in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grade_lightning.data.corpus import Reviews

T = TypeVar("T")

# A sentence ends at . ! or ? (with closing quotes or brackets) before white space, or at a line break.
_SENTENCE_END = re.compile(r"[.!?]+[\"')\]]*(?=\s|$)|\n+")
_BREAK = re.compile(r"(?:<br\s*/?>\s*)+", re.IGNORECASE)


def clean_html(text: str) -> str:
    """Replace IMDB's ``<br />`` marks by single newlines."""
    return _BREAK.sub("\n", text)


def review_texts(reviews: Reviews, clean: bool) -> list[str]:
    """The texts, with :func:`clean_html` if asked."""
    return [clean_html(text) if clean else text for text in reviews.texts]


def opening(text: str, *, max_sentences: int = 2, max_chars: int = 200) -> str:
    """The first one or two sentences, at most ``max_chars`` characters.

    Whole sentences as long as they fit; a first sentence that does not fit is cut at the last word boundary.
    """
    text = text.strip()
    ends = [match.end() for match in _SENTENCE_END.finditer(text)] or [len(text)]
    fitting = [end for end in ends[:max_sentences] if end <= max_chars]
    if fitting:
        return text[: fitting[-1]].rstrip()
    cut = text[: max_chars + 1].rsplit(None, 1)[0]
    return cut[:max_chars].rstrip()


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
        ids: its token ids.
        key: a stable id that evaluation noise is drawn from (see :func:`prompt_key`).
        label: the label of the review that it opens; -1 where there is none.
        text: what the ids spell, verbatim: before special tokens are added and before anything is cut for length; of a chat what the
            tokenizer's template writes.
        columns: what else the data say of it, by column; of a chat also its messages.
    """

    ids: tuple[int, ...]
    key: int
    label: int
    text: str = ""
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PromptBatch:
    """B left-padded prompts.

    Attributes:
        ids: [B, P] token ids, padding on the left.
        mask: [B, P] bool, True = real token.
        keys: B stable prompt ids (see :func:`prompt_key`).
        labels: [B] sentiment of the review that each prompt opens; -1 where there is none.
        rows: [B] place in the effective batch (training) or in the split (evaluation).
        step: policy step that this batch belongs to; 0 in evaluation.
        texts: B texts, see :class:`Prompt`; all empty if they are not given.
        columns: B mappings from column to value, see :class:`Prompt`; all empty if they are not given.
        group: so many rows in a row have the same prompt, which is then read once where that pays.
    """

    ids: Tensor
    mask: Tensor
    keys: tuple[int, ...]
    labels: Tensor
    rows: Tensor
    step: int = 0
    texts: tuple[str, ...] = ()
    columns: tuple[Mapping[str, Any], ...] = ()
    group: int = 1

    def __post_init__(self) -> None:
        size = len(self)
        object.__setattr__(self, "texts", self.texts or ("",) * size)
        object.__setattr__(self, "columns", self.columns or ({},) * size)
        assert len(self.texts) == len(self.columns) == size, "one text and one mapping a row"

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __getitem__(self, rows: slice) -> PromptBatch:
        start, stop, step = rows.indices(len(self))
        whole = step == 1 and start % self.group == 0 == stop % self.group
        return PromptBatch(
            self.ids[rows], self.mask[rows], self.keys[rows], self.labels[rows], self.rows[rows], self.step, self.texts[rows],
            self.columns[rows], self.group if whole else 1,
        )  # fmt: skip

    def repeat(self, times: int) -> PromptBatch:
        """Each prompt ``times`` times in a row, with rows of their own."""
        if times == 1:
            return self
        ids, mask, labels = (x.repeat_interleave(times, dim=0) for x in (self.ids, self.mask, self.labels))
        rows = (self.rows[:, None] * times + torch.arange(times)).flatten()
        return PromptBatch(
            ids, mask, _each(self.keys, times), labels, rows, self.step, _each(self.texts, times), _each(self.columns, times),
            self.group * times,
        )  # fmt: skip

    def to(self, device: torch.device | str) -> PromptBatch:
        """The batch with its tensors on another device; ``rows`` stay on the CPU, where they are read one by one."""
        return replace(self, ids=self.ids.to(device), mask=self.mask.to(device), labels=self.labels.to(device))


def _each(items: tuple[T, ...], times: int) -> tuple[T, ...]:
    return tuple(item for item in items for _ in range(times))


def prompt_key(text: str) -> int:
    """A 63-bit id of the review's raw text: the same whatever the split, its size or its order."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_prompts(
    texts: Sequence[str],
    labels: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_sentences: int = 2,
    max_chars: int = 200,
    max_tokens: int = 32,
    clean: bool = True,
) -> list[Prompt]:
    """Tokenised openings (special tokens as the tokenizer declares, counted in ``max_tokens``)."""
    openings = [opening(clean_html(t) if clean else t, max_sentences=max_sentences, max_chars=max_chars) for t in texts]
    encoded = tokenizer(openings, truncation=True, max_length=max_tokens)["input_ids"]
    return [
        Prompt(tuple(ids), prompt_key(text), int(label), opened)
        for ids, text, label, opened in zip(encoded, texts, labels, openings, strict=True)
    ]


def collate(prompts: Sequence[Prompt], pad_id: int, *, rows: Sequence[int], step: int = 0) -> PromptBatch:
    """A batch of the prompts, padded on the left to the longest of them.

    Args:
        prompts: at least one.
        pad_id: the token that fills.
        rows: place of each prompt in the effective batch or the split.
        step: policy step of the batch; 0 in evaluation.
    """
    width = max(len(prompt.ids) for prompt in prompts)
    ids = torch.full((len(prompts), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(prompts), width), dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt.ids) :] = torch.tensor(prompt.ids)
        mask[row, width - len(prompt.ids) :] = True
    labels = torch.tensor([prompt.label for prompt in prompts])
    return PromptBatch(
        ids, mask, tuple(p.key for p in prompts), labels, torch.tensor(list(rows)), step, tuple(p.text for p in prompts),
        tuple(p.columns for p in prompts),
    )  # fmt: skip


def batch_of(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase) -> PromptBatch:
    """Texts as one batch of prompts.

    Raises:
        ValueError: a text has no tokens.
    """
    encoded = [tokenizer(text)["input_ids"] for text in texts]
    if not encoded or not all(encoded):
        raise ValueError("a prompt has no tokens: give at least one text, and none that is empty")
    prompts = [Prompt(tuple(ids), key=row, label=-1, text=text) for row, (ids, text) in enumerate(zip(encoded, texts, strict=True))]
    return collate(prompts, int(tokenizer.pad_token_id), rows=range(len(prompts)))  # type: ignore[arg-type]
