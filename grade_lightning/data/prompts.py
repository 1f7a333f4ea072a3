"""Prompts by the paper's rule, and the left-padded batches they travel in."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grade_lightning.data.corpus import Reviews

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
        label: the label of the review that it opens.
    """

    ids: tuple[int, ...]
    key: int
    label: int


@dataclass(frozen=True)
class PromptBatch:
    """B left-padded prompts.

    Attributes:
        ids: [B, P] token ids, padding on the left.
        mask: [B, P] bool, True = real token.
        keys: B stable prompt ids (see :func:`prompt_key`).
        labels: [B] sentiment of the review that each prompt opens.
        rows: [B] place in the effective batch (training) or in the split (evaluation).
        step: policy step that this batch belongs to; 0 in evaluation.
    """

    ids: Tensor
    mask: Tensor
    keys: tuple[int, ...]
    labels: Tensor
    rows: Tensor
    step: int = 0

    def __len__(self) -> int:
        return self.ids.shape[0]

    def __getitem__(self, rows: slice) -> PromptBatch:
        return PromptBatch(self.ids[rows], self.mask[rows], self.keys[rows], self.labels[rows], self.rows[rows], self.step)

    def repeat(self, times: int) -> PromptBatch:
        """Each prompt ``times`` times in a row, with rows of their own."""
        if times == 1:
            return self
        ids, mask, labels = (x.repeat_interleave(times, dim=0) for x in (self.ids, self.mask, self.labels))
        keys = tuple(key for key in self.keys for _ in range(times))
        rows = (self.rows[:, None] * times + torch.arange(times)).flatten()
        return PromptBatch(ids, mask, keys, labels, rows, self.step)

    def to(self, device: torch.device | str) -> PromptBatch:
        """The batch with its tensors on another device; ``rows`` stay on the CPU, where they are read one by one."""
        return PromptBatch(self.ids.to(device), self.mask.to(device), self.keys, self.labels.to(device), self.rows, self.step)


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
    return [Prompt(tuple(ids), prompt_key(text), int(label)) for ids, text, label in zip(encoded, texts, labels, strict=True)]


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
    return PromptBatch(ids, mask, tuple(p.key for p in prompts), labels, torch.tensor(list(rows)), step)
