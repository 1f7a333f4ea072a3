"""What the tokens of a vocabulary spell, byte by byte."""

from __future__ import annotations

import codecs
import json
import math
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from tokenizers.pre_tokenizers import ByteLevel
from transformers import PreTrainedTokenizerBase

_METASPACE = "\u2581"
_ERRORS = "grade_lightning_replace"


@lru_cache(maxsize=1)
def _bytes_of_characters() -> dict[str, int]:
    """The byte that each character of byte-level BPE stands for: printable Latin-1 for itself, the rest in order from U+0100."""
    alphabet = set(ByteLevel.alphabet())
    own = {character: ord(character) for character in alphabet if ord(character) < 256}
    others = sorted(alphabet - own.keys(), key=ord)
    return own | dict(zip(others, [byte for byte in range(256) if byte not in own.values()], strict=True))


def _decoder_types(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    def walk(node: Any) -> set[str]:
        if not isinstance(node, dict):
            return set()
        inner = [walk(child) for child in node.get("decoders", [])]
        return {str(node.get("type"))}.union(*inner)

    backend = getattr(tokenizer, "backend_tokenizer", None)
    return walk(json.loads(backend.to_str()).get("decoder")) if backend is not None else set()


def token_bytes(tokenizer: PreTrainedTokenizerBase) -> list[bytes] | None:
    """What each token id spells; nothing for special tokens.  None where a token alone does not say (WordPiece and the like).

    Known are byte-level BPE (GPT-2, Qwen, Llama 3) and vocabularies that write a space as U+2581, with or without byte fallback
    (Llama 2, Gemma, T5).
    """
    kinds = _decoder_types(tokenizer)
    byte_level = "ByteLevel" in kinds
    if not (byte_level or kinds & {"Metaspace", "ByteFallback", "Replace"}):
        return None
    special, added = set(tokenizer.all_special_ids), {i: str(token) for i, token in tokenizer.added_tokens_decoder.items()}
    characters, found = _bytes_of_characters(), []
    for index, token in enumerate(tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))):
        if index in special or token is None or (index in added and tokenizer.added_tokens_decoder[index].special):
            found.append(b"")
        elif index in added:
            found.append(added[index].encode())
        elif byte_level:
            found.append(bytes(characters[character] for character in token))
        elif len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
            found.append(bytes([int(token[3:5], 16)]))
        else:
            found.append(token.replace(_METASPACE, " ").encode())
    return found


def readable(pieces: Sequence[bytes]) -> tuple[str, list[float]]:
    """The text that pieces spell, what is no UTF-8 replaced as tokenizers do it, and where in it each piece ends.

    Returns:
        The text, and for each piece the byte of the text (as UTF-8) at which it ends; a piece that ends inside of something replaced ends
        at no byte of the text, and gets a place halfway through it.
    """
    data, replaced = b"".join(pieces), []

    def handle(error: UnicodeError) -> tuple[str, int]:
        assert isinstance(error, UnicodeDecodeError)
        replaced.append((error.start, error.end))
        return "\ufffd", error.end

    codecs.register_error(_ERRORS, handle)
    text, broken = data.decode("utf-8", _ERRORS), dict(replaced)
    places: dict[int, float] = {0: 0}  # byte of the data -> byte of the text
    own, shown = 0, 0
    for character in text:
        size = len(character.encode())
        if own in broken:
            end = broken[own]
            places |= dict.fromkeys(range(own + 1, end), shown + size / 2)
        else:
            end = own + size
            places |= {inside: shown + inside - own for inside in range(own + 1, end)}
        own, shown = end, shown + size
        places[own] = shown
    return text, [places[end] for end in accumulate(map(len, pieces))]


def within(ends: Sequence[int], start: int, length: int, *, whole: bool) -> list[float]:
    """Ends of the tokens of a text, as places in a part of it.

    Args:
        ends: byte of the text at which each token ends, never decreasing.
        start: byte at which the part begins.
        length: of the part, in bytes.
        whole: the tokens reach the end of the text: what none of them spells there (a trailing space) belongs to the last one.

    Returns:
        0 for tokens before the part; infinity for those behind it; a token that reaches beyond its end ends with it.
    """
    found: list[float] = []
    before = 0
    for end in ends:
        behind = before - start >= length and end > before
        found.append(math.inf if behind else min(max(end - start, 0), length))
        before = max(before, end)
    if whole and found and len(found) > 0 and found[-1] < length and before > start:
        found[-1] = length
    return found


Group = tuple[range, range]


def align(first: Sequence[float], second: Sequence[float]) -> list[Group]:
    """Tokens of two spellings of the same bytes, in the smallest groups at whose ends tokens of both end.

    Args:
        first: the byte at which each token of one side ends, never decreasing.
        second: of the other side; it may end earlier, where a text was cut.

    Returns:
        Ranges of tokens of both sides.  Every byte up to the last common end belongs to exactly one group; tokens that spell nothing
        stand in the group of the byte before them, and in none at the start.
    """
    common = sorted(place for place in ({0} | set(first)) & ({0} | set(second)) if place != math.inf)
    return [(_between(first, start, end), _between(second, start, end)) for start, end in pairwise(common)]


def _between(ends: Sequence[float], start: float, end: float) -> range:
    inside = [place for place, at in enumerate(ends) if start < at <= end]
    return range(inside[0], inside[-1] + 1) if inside else range(0)
