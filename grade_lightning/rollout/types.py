"""What a rollout is."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import SoftTokens
from grade_lightning.settings.rollout import RolloutSettings

__all__ = ["Rollout", "RolloutSettings"]


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
