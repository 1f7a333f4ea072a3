"""What tokens spell, and which tokens of two vocabularies spell the same bytes."""

from __future__ import annotations

import math

import pytest
import torch

from grade_lightning.rewards.spelling import align, readable, token_bytes, within
from tests.rewards.vocabularies import TEXTS, byte_fallback, byte_level, bytes_alone, unigram, word_piece

STRANGE = [*TEXTS[:4], " leading", "trailing  ", "\n\nlines\n", "e\u0301 combining", "👩‍👩‍👧", "\u00a0", "a" * 50, "#hash ##ing", "日本語"]


@pytest.mark.parametrize("make", [byte_level, bytes_alone, byte_fallback])
@pytest.mark.parametrize("text", STRANGE)
def test_tokens_spell_their_text(make, text):
    tokenizer = make()
    spelled = token_bytes(tokenizer)
    ids = tokenizer(text)["input_ids"]
    assert b"".join(spelled[index] for index in ids) == text.encode()
    assert all(spelled[index] == b"" for index in tokenizer.all_special_ids)


def test_a_word_piece_does_not_say_what_it_spells():
    assert token_bytes(word_piece()) is None
    assert token_bytes(unigram()) is not None


def test_text_of_broken_bytes_is_the_tokenizers():
    """Tokens drawn at random end inside of characters; the text is what the tokenizer decodes, and ends never decrease."""
    tokenizer = byte_level(270)
    spelled, generator = token_bytes(tokenizer), torch.Generator().manual_seed(0)
    for _ in range(200):
        ids = torch.randint(2, len(tokenizer), (20,), generator=generator).tolist()
        text, ends = readable([spelled[index] for index in ids])
        assert text == tokenizer.decode(ids)
        assert ends == sorted(ends)
        assert ends[-1] == len(text.encode())


def check_groups(first, second, end):
    """Every byte up to the end belongs to exactly one group of both sides, and no smaller groups would do."""
    groups = align(first, second)
    for side, ends in ((0, first), (1, second)):
        covered = [place for group in groups for place in group[side]]
        assert covered == sorted(set(covered))
        spelling = [place for place, at in enumerate(ends) if 0 < at <= end]
        assert covered == spelling
    for own, other in groups:
        inside = {first[place] for place in own[:-1]} & {second[place] for place in other[:-1]}
        assert not {place for place in inside if place < first[own[-1]]}
        assert first[own[-1]] == second[other[-1]]


@pytest.mark.parametrize("make", [byte_level, bytes_alone, byte_fallback])
@pytest.mark.parametrize("reads", [word_piece, unigram, byte_level, bytes_alone])
@pytest.mark.parametrize("text", STRANGE)
def test_every_byte_belongs_to_one_group(make, reads, text):
    policy, reward = make(), reads()
    spelled = token_bytes(policy)
    _, first = readable([spelled[index] for index in policy(text)["input_ids"]])
    encoded = reward(text, add_special_tokens=False, return_offsets_mapping=True)
    at = [len(text[:place].encode()) for place in range(len(text) + 1)]
    second = within([at[end] for _, end in encoded["offset_mapping"]], 0, len(text.encode()), whole=True)
    if second:
        check_groups(first, second, max(place for place in second if place != math.inf))


def test_a_part_of_a_text():
    ends = [3, 5, 9, 9, 12, 14]
    assert within(ends, 4, 6, whole=True) == [0, 1, 5, 5, 6, math.inf]
    assert within([3, 5], 4, 6, whole=True) == [0, 6]  # what nobody spells at the end belongs to the last token
    assert within([3, 5], 4, 6, whole=False) == [0, 1]  # or it was cut off
