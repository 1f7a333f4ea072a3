"""Cutting work over the vocabulary into chunks of time."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

CHUNK_ELEMENTS = 1 << 24  # logits held at once: 64 MiB in fp32


def time_chunks(shape: Sequence[int], vocab_size: int, where: Tensor) -> list[slice]:
    """Slices of time such that [B, chunk, V] stays below ``CHUNK_ELEMENTS``; on a CPU a quarter, which its caches like better.

    Args:
        shape: (B, T). where: any tensor on the device.
    """
    rows, total = shape
    budget = CHUNK_ELEMENTS if where.is_cuda else CHUNK_ELEMENTS // 4
    length = max(1, budget // (vocab_size * rows))
    return [slice(t, min(t + length, total)) for t in range(0, total, length)]
