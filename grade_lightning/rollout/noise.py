"""Gumbel noise that depends on what is sampled, never on how the work was split."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from grade_lightning.estimators import gumbel_noise


def keyed_generator(*key: int | str) -> torch.Generator:
    """A CPU generator seeded by a hash of the key."""
    digest = hashlib.sha256("/".join(map(str, key)).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def training_noise(seed: int, step: int, rows: int, tokens: int, k: int) -> Tensor:
    """Noise of one whole effective batch, from (seed, policy step).  -> [rows, tokens, k] on the CPU."""
    return gumbel_noise((rows, tokens, k), generator=keyed_generator("train", seed, step))


def evaluation_noise(seed: int, keys: Sequence[int], tokens: int, k: int) -> Tensor:
    """Noise of evaluation prompts, each row from (evaluation seed, prompt id).  -> [len(keys), tokens, k] on the CPU."""
    return torch.stack([gumbel_noise((tokens, k), generator=keyed_generator("evaluation", seed, key)) for key in keys])
