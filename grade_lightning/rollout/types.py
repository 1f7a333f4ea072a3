"""What a rollout is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import SoftTokens

CONTEXTS = ("full", "last_token")
CACHES = ("auto", "growing", "static")


@dataclass(frozen=True)
class RolloutSettings:
    """How completions are sampled, in training and evaluation alike.

    Attributes:
        max_new_tokens: T, the longest completion.
        min_new_tokens: before this many tokens the end of sequence is banned.
        top_k: candidates a token is drawn from, and the support of log-probabilities (paper: 256).
        top_p: of these, the fewest that hold this much probability; 1 = all.
        sampling_temperature: logits are divided by it before a token is drawn (decoding; not the relaxation's tau).
        context: what a token is drawn from: ``full``, or ``last_token``: each token after the first sees only the previous one.
            That is what a transformers rollout does in train mode with gradient checkpointing, where the cache is dropped.
        cache: of keys and values: ``growing``, ``static`` (written in place), or ``auto``: on CUDA static with each step a CUDA graph,
            elsewhere growing.
        stop_at_eos: False = an end of sequence is a token like any other and a completion always has T tokens.
    """

    max_new_tokens: int = 64
    min_new_tokens: int = 8
    top_k: int = 256
    top_p: float = 1.0
    sampling_temperature: float = 1.0
    context: str = "full"
    cache: str = "auto"
    stop_at_eos: bool = True

    def check(self, vocab_size: int) -> None:
        """Raise ValueError where the settings cannot work with this vocabulary."""
        if not 1 <= self.top_k <= vocab_size:
            raise ValueError(f"rollout.top_k={self.top_k} must lie between 1 and the vocabulary size {vocab_size:,}: lower rollout.top_k")
        if not 0 <= self.min_new_tokens <= self.max_new_tokens or self.max_new_tokens < 1:
            raise ValueError(
                f"rollout.min_new_tokens={self.min_new_tokens} must lie between 0 and max_new_tokens={self.max_new_tokens} (at least 1)"
            )
        if not 0.0 < self.top_p <= 1.0:
            raise ValueError(f"rollout.top_p must lie in (0, 1], got {self.top_p}")
        if self.sampling_temperature <= 0.0:
            raise ValueError(f"rollout.sampling_temperature must be positive, got {self.sampling_temperature}")
        if self.context not in CONTEXTS:
            raise ValueError(f"rollout.context={self.context} is unknown: use one of {', '.join(CONTEXTS)}")
        if self.cache not in CACHES:
            raise ValueError(f"rollout.cache={self.cache} is unknown: use one of {', '.join(CACHES)}")


@dataclass(frozen=True)
class Rollout:
    """B sampled completions of at most T tokens, with all that is needed to evaluate them again.

    The first end-of-sequence token is a real token; what follows it is padding.

    Attributes:
        prompt: the prompts.
        completion_ids: [B, T] hard tokens; the padding id where the mask is False.
        mask: [B, T] bool, True = real token.
        indices: [B, T, k] the k most likely candidates when the token was drawn, after the end-of-sequence ban.
        support: [B, T, k] bool, the candidates that could be drawn (banned ones and those outside the nucleus could not).
        noise: [B, T, k] Gumbel noise of the candidates.
        hard: [B, T] position (0..k-1) of the hard token among the candidates.
        weights: [B, T, k] relaxed weights that were fed forward; None if hard tokens were.
        sampling_temperature: as in :class:`RolloutSettings`.
    """

    prompt: PromptBatch
    completion_ids: Tensor
    mask: Tensor
    indices: Tensor
    support: Tensor
    noise: Tensor
    hard: Tensor
    weights: Tensor | None = None
    sampling_temperature: float = 1.0

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

    def on_support(self, candidates: Tensor, t: int | None = None) -> Tensor:
        """Logits of the candidates as the token was drawn from them: divided by the temperature, -inf outside the support.

        Args:
            candidates: [B, T, k] logits at ``indices``, or [B, k] of column ``t``.
        """
        support = self.support if t is None else self.support[:, t]
        return (candidates / self.sampling_temperature).masked_fill(~support, float("-inf"))

    def soft(self, weights: Tensor) -> SoftTokens:
        """The candidates with the given weights [B, T, k]."""
        return SoftTokens(self.indices, weights, self.completion_ids)
