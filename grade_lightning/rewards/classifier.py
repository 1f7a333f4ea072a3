"""P(positive) of prompt and completion by a head on the policy's own base, differentiable in relaxed tokens."""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.rewards.base import Completions
from grade_lightning.rewards.head import PooledReward


class ClassifierReward(PooledReward):
    """P(positive) from a classifier head on the policy's own frozen base (eq. 13); see :class:`PooledReward` for its arguments."""

    range = (0.0, 1.0)

    def scoped(self, scope: str) -> ClassifierReward:
        """The same head with another scope."""
        return self if self.scope == scope else ClassifierReward(self._policy[0], self.head, scope=scope)

    def score(self, completions: Completions) -> Tensor:
        """[B] P(positive)."""
        return torch.softmax(self.outputs(completions), dim=-1)[:, 1]
