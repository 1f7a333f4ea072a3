"""From a user's prompts to tokens."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import replace

from transformers import PreTrainedTokenizerBase

from grade_lightning.data.chats import written
from grade_lightning.data.own import SPLITS, PromptRow, PromptSplits
from grade_lightning.data.prompts import Prompt, prompt_key

log = logging.getLogger(__name__)


def _written(row: PromptRow, tokenizer: PreTrainedTokenizerBase) -> str:
    """The text of a prompt: of a chat, what the tokenizer's template writes up to where the answer begins."""
    if isinstance(row.content, str):
        return row.content
    return written(row.content, tokenizer, row.place, begin_answer=True)


def _encode(rows: list[PromptRow], tokenizer: PreTrainedTokenizerBase) -> list[Prompt]:
    chats = isinstance(rows[0].content, list)
    if chats and not tokenizer.chat_template:
        raise ValueError(
            f"{rows[0].place} holds a chat, and the tokenizer of the model has no chat template: choose a model that was trained on "
            "chats, or a data.prompt_column of texts"
        )
    texts = [_written(row, tokenizer) for row in rows]
    # The template writes the special tokens itself.
    encoded = tokenizer(texts, add_special_tokens=not chats)["input_ids"]
    seen: Counter[str] = Counter()
    found = []
    for row, text, ids in zip(rows, texts, encoded, strict=True):
        if not ids:
            raise ValueError(f"{row.place}: the tokenizer of the model makes no token of this prompt: leave it out")
        # Equal prompts are told apart, so that each has noise of its own.
        key = prompt_key(f"{row.identity}\0{seen[row.identity]}" if seen[row.identity] else row.identity)
        seen[row.identity] += 1
        found.append(Prompt(tuple(ids), key, -1, text, row.columns))
    return found


def _cut(prompts: dict[str, list[Prompt]], places: dict[str, list[PromptRow]], most: int, truncate: str) -> dict[str, list[Prompt]]:
    pairs = [(prompt, row) for name in SPLITS for prompt, row in zip(prompts[name], places[name], strict=True)]
    long = [(prompt, row) for prompt, row in pairs if len(prompt.ids) > most]
    if not long:
        return prompts
    first, row = long[0]
    said = f"{len(long):,} of {len(pairs):,} prompts are longer than data.prompt.max_tokens={most:,} tokens"
    longest = max(len(prompt.ids) for prompt, _ in long)
    if truncate == "error":
        raise ValueError(
            f"{said}; the first, {row.place}, has {len(first.ids):,}: raise data.prompt.max_tokens (the longest has {longest:,}), leave "
            "them out, or keep their beginnings with data.truncate=end"
        )
    if any(isinstance(row.content, list) for _, row in long):
        raise ValueError(
            f"{said}; the first is {row.place}, a chat, and data.truncate=end would cut off where its answer begins: raise "
            f"data.prompt.max_tokens (the longest has {longest:,}), or leave them out"
        )
    log.warning("%s: only their beginnings are read", said)
    return {name: [p if len(p.ids) <= most else replace(p, ids=p.ids[:most]) for p in own] for name, own in prompts.items()}


def encode_splits(
    splits: PromptSplits, tokenizer: PreTrainedTokenizerBase, *, max_tokens: int = 256, truncate: str = "error"
) -> dict[str, list[Prompt]]:
    """Tokens of the three lists: texts verbatim with the tokenizer's special tokens, chats as its template writes them.

    Args:
        splits: at least one prompt each.
        tokenizer: of the policy.
        max_tokens: longest prompt, special tokens counted.
        truncate: what a longer one is: ``error``, or cut at its ``end`` (which no chat can be).

    Raises:
        ValueError: prompts that are too long or have no tokens, or chats where the tokenizer has no template.
    """
    rows = {name: getattr(splits, name) for name in SPLITS}
    return _cut({name: _encode(own, tokenizer) for name, own in rows.items()}, rows, max_tokens, truncate)
