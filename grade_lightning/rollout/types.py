"""What a rollout is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import SoftTokens


@dataclass(frozen=True)
class RolloutSettings:
    """How completions are sampled, in training and evaluation alike.

    Attributes:
        max_new_tokens: T, the longest completion.
        min_new_tokens: before this many tokens the end of sequence is banned.
        top_k: candidates a token is drawn from, and the support of log-probabilities (paper: 256).
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 8
    top_k: int = 256

    def check(self, vocab_size: int) -> None:
        """Raise ValueError where the settings cannot work with this vocabulary."""
        if not 1 <= self.top_k <= vocab_size:
            raise ValueError(f"rollout.top_k={self.top_k} must lie between 1 and the vocabulary size {vocab_size:,}: lower rollout.top_k")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ValueError(
                f"rollout.min_new_tokens={self.min_new_tokens} must lie between 0 and max_new_tokens={self.max_new_tokens} (at least 1)"
            )


@dataclass(frozen=True)
class Rollout:
    """B sampled completions of at most T tokens, with all that is needed to evaluate them again.

    The first end-of-sequence token is a real token; what follows it is padding.

    Attributes:
        prompt: the prompts.
        completion_ids: [B, T] hard tokens; the padding id where the mask is False.
        mask: [B, T] bool, True = real token.
        indices: [B, T, k] the k most likely candidates when the token was drawn, after the end-of-sequence ban.
        noise: [B, T, k] Gumbel noise of the candidates.
        hard: [B, T] position (0..k-1) of the hard token among the candidates.
        weights: [B, T, k] relaxed weights that were fed forward; None if hard tokens were.
    """

    prompt: PromptBatch
    completion_ids: Tensor
    mask: Tensor
    indices: Tensor
    noise: Tensor
    hard: Tensor
    weights: Tensor | None = None

    def __len__(self) -> int:
        return self.completion_ids.shape[0]

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return int(self.mask.sum())

    @property
    def whole_mask(self) -> Tensor:
        """[B, P + T] mask of prompt and completion."""
        return torch.cat([self.prompt.mask, self.mask], dim=1)

    def soft(self, weights: Tensor) -> SoftTokens:
        """The candidates with the given weights [B, T, k]."""
        return SoftTokens(self.indices, weights, self.completion_ids)
