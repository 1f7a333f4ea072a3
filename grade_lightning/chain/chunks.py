"""Cutting work over the vocabulary into chunks of tokens."""

from __future__ import annotations

from jaxtyping import Shaped
from torch import Tensor

CHUNK_ELEMENTS = 1 << 24  # logits held at once: 64 MiB in fp32


def token_chunks(tokens: Shaped[Tensor, "N ..."], vocab_size: int) -> list[slice]:
    """Slices of N tokens such that [chunk, V] logits stay below ``CHUNK_ELEMENTS``.

    Args:
        tokens: [N, ...] what is cut, by its first axis.
        vocab_size: V.
    """
    length = max(1, CHUNK_ELEMENTS // vocab_size)
    return [slice(start, min(start + length, len(tokens))) for start in range(0, len(tokens), length)]
