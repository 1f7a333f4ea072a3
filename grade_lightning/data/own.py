"""Prompts of a user's own: rows of a table with a prompt column, and their splits."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from grade_lightning.data.chats import Content, fault_of_chat, fault_of_text, without_nulls
from grade_lightning.data.tables import Table, columns_of, read_tables

log = logging.getLogger(__name__)

SPLITS = ("policy", "validation", "test")


@dataclass(frozen=True, eq=False)
class PromptRow:
    """One prompt before it has tokens.

    Attributes:
        content: a text, or the messages of a chat, verbatim.
        columns: the row's further columns; of a chat also its messages.
        place: file and row, for messages to the user.
    """

    content: Content
    columns: Mapping[str, Any]
    place: str

    @cached_property
    def identity(self) -> str:
        """What makes it this prompt, whatever tokenizer reads it: the text, or the messages as JSON."""
        return self.content if isinstance(self.content, str) else json.dumps(self.content, sort_keys=True)

    @cached_property
    def digest(self) -> bytes:
        """A hash of prompt and columns, which sorts by the prompt first."""
        columns = json.dumps(self.columns, sort_keys=True, default=str)
        return hashlib.sha256(self.identity.encode()).digest() + hashlib.sha256(columns.encode()).digest()


@dataclass(frozen=True)
class PromptSplits:
    """Three disjoint lists of prompts.

    ``duplicates`` counts the prompts that stand in two of them; ``fingerprints`` identify prompts, columns and order.
    """

    policy: list[PromptRow]
    validation: list[PromptRow]
    test: list[PromptRow]
    duplicates: dict[str, int] = field(default_factory=dict)
    fingerprints: dict[str, str] = field(default_factory=dict)


def _fault(value: Any, *, chats: bool) -> str | None:
    """What is wrong with a prompt, in words that follow "the column"; None = nothing."""
    if value is None:
        return "holds no prompt"
    if chats and isinstance(value, list):
        return fault_of_chat(value)
    if chats or not isinstance(value, str):
        kind = "a text" if isinstance(value, str) else f"a value of the type {type(value).__name__}"
        return f"holds {kind}, where {'the chats of other rows' if chats else 'a text or a list of messages'} should stand"
    return fault_of_text(value)


def prompt_rows(tables: Sequence[Table], column: str) -> list[PromptRow]:
    """The prompts of tables, in order.

    Args:
        tables: of one split.
        column: with texts, or with chats: lists of ``{"role": ..., "content": ...}``.

    Raises:
        ValueError: no such column, or rows without a prompt; file, column and row are named.
    """
    for table in tables:
        present = columns_of([table])
        if column not in present:
            raise ValueError(
                f"{table.where} has no column {column!r}; it has {', '.join(map(repr, present)) or 'none'}: name the one that holds "
                "the prompts with data.prompt_column=NAME"
            )
    names = columns_of(list(tables))
    cells = [(table.place(row), values) for table in tables for row, values in enumerate(table.rows)]
    chats = any(isinstance(values.get(column), list) for _, values in cells)
    faults = [(place, fault) for place, values in cells if (fault := _fault(values.get(column), chats=chats)) is not None]
    if faults:
        place, fault = faults[0]
        others = f" ({len(faults):,} of {len(cells):,} rows cannot be used)" if len(faults) > 1 else ""
        raise ValueError(f"{place}: the column {column!r} {fault}{others}: correct the file, or leave such rows out")
    found = []
    for place, values in cells:
        columns = {name: values.get(name) for name in names if name != column}
        content = values[column]
        if chats:
            content = columns[column] = without_nulls(content)
        found.append(PromptRow(content, columns, place))
    return found


def _ordered(rows: list[PromptRow], seed: int) -> list[PromptRow]:
    """Sorted by a hash of prompt and columns and shuffled by PCG64: the same whatever file and order they came in."""
    by_hash = sorted(rows, key=lambda row: row.digest)
    return [by_hash[place] for place in np.random.Generator(np.random.PCG64(seed)).permutation(len(rows))]


def _duplicates(parts: Mapping[str, list[PromptRow]]) -> dict[str, int]:
    prompts = {name: {row.identity for row in rows} for name, rows in parts.items()}
    pairs = [(a, b) for i, a in enumerate(SPLITS) for b in SPLITS[i + 1 :]]
    return {f"{a}/{b}": count for a, b in pairs if (count := len(prompts[a] & prompts[b]))}


def make_prompt_splits(
    rows: list[PromptRow],
    validation: list[PromptRow] | None = None,
    test: list[PromptRow] | None = None,
    *,
    validation_rows: int = 100,
    test_rows: int = 200,
    shuffle_seed: int = 42,
) -> PromptSplits:
    """Prompts to train on, to validate on and to test on.

    Args:
        rows: what training prompts come from, and the splits that have no rows of their own.
        validation: rows of its own, all of which are used; None = some of ``rows``.
        test: the same.
        validation_rows: how many of ``rows`` are set aside for a validation split that has none of its own.
        test_rows: the same for the test split.
        shuffle_seed: seed of the order.

    Raises:
        ValueError: too few rows.
    """
    ordered = _ordered(rows, shuffle_seed)
    aside = {"test": (test, test_rows), "validation": (validation, validation_rows)}
    taken = {name: size for name, (given, size) in aside.items() if given is None}
    if sum(taken.values()) >= len(ordered):
        keys = " and ".join(f"data.{name}_rows ({size:,})" for name, size in sorted(taken.items()))
        own = " or ".join(f"data.{name}_path" for name in sorted(taken))
        raise ValueError(f"the file has {len(ordered):,} prompts, and {keys} leave none to train on: lower them, or name files by {own}")
    parts: dict[str, list[PromptRow]] = {}
    for name, (rows_of_its_own, size) in aside.items():
        parts[name] = ordered[:size] if rows_of_its_own is None else _ordered(rows_of_its_own, shuffle_seed)
        ordered = ordered[size:] if rows_of_its_own is None else ordered
    parts["policy"] = ordered
    duplicates = _duplicates(parts)
    if duplicates:
        log.warning("prompts that stand in two splits: %s (remove them from the file to measure on prompts not trained on)", duplicates)
    prints = {name: hashlib.sha256(b"".join(row.digest for row in parts[name])).hexdigest()[:16] for name in SPLITS}
    return PromptSplits(parts["policy"], parts["validation"], parts["test"], duplicates, prints)


def load_prompt_splits(
    path: str,
    *,
    prompt_column: str = "prompt",
    validation_path: str | None = None,
    test_path: str | None = None,
    hub_split: str = "train",
    hub_config: str | None = None,
    revision: str | None = None,
    **sizes: int,
) -> PromptSplits:
    """The three lists of prompts that the paths name.

    Args:
        path: a file, a folder or a hub id, as the other two paths.
        prompt_column: see :func:`prompt_rows`.
        validation_path: where this split has a file of its own; of a hub id the split ``validation`` is read.
        test_path: the same; of a hub id the split ``test`` is read.
        hub_split: of the hub data set at ``path``.
        hub_config: of the hub data set at ``path``, also where another path has the same id.
        revision: as ``hub_config``.
        sizes: see :func:`make_prompt_splits`.

    Raises:
        ValueError: see :func:`read_tables`, :func:`prompt_rows` and :func:`make_prompt_splits`.
    """

    def rows(own: str | None, role: str) -> list[PromptRow] | None:
        if own is None:
            return None
        same = {"revision": revision, "config": hub_config} if own == path else {}
        return prompt_rows(read_tables(own, role, key=f"data.{role}_path", split=role, **same), prompt_column)  # type: ignore[arg-type]

    training = prompt_rows(read_tables(path, split=hub_split, revision=revision, config=hub_config), prompt_column)
    return make_prompt_splits(training, rows(validation_path, "validation"), rows(test_path, "test"), **sizes)
