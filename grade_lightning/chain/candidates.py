"""Logits of the recorded candidates, without a gradient of the vocabulary's size."""

from __future__ import annotations

from jaxtyping import Float, Int
from torch import Tensor

from grade_lightning.models.bags import dots
from grade_lightning.models.policy import Policy


def candidate_logits(policy: Policy, hidden: Float[Tensor, "B T d"], indices: Int[Tensor, "B T k"]) -> Float[Tensor, "B T k"]:
    """Logits at ``indices``, differentiable in ``hidden``.  [B, T, d], [B, T, k] -> [B, T, k], in fp32 (fp64 stays fp64).

    An adjoint differentiates them once for each of its terms.
    """
    head, matrix = policy.head, policy.head.matrix
    if matrix is None:
        return head.logits(hidden).gather(-1, indices)
    return head.capped(dots(head.scaled(hidden).flatten(0, -2), matrix, indices.flatten(0, -2)).view_as(indices))
