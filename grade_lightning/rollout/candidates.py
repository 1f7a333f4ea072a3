"""Logits of the recorded candidates, without a gradient of the vocabulary's size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.rollout.chunks import token_chunks


class _CandidateLogits(torch.autograd.Function):
    """hidden [B, T, d], lm_head [V, d], indices [B, T, k] -> [B, T, k].

    The gradient with respect to hidden is sum_k g_k lm_head[index_k]: a weighted bag of embeddings, where autograd would scatter
    g into [B, T, V] and multiply by the whole head.  An adjoint does this once for each of its terms.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(head, indices)
        flat, wanted = hidden.reshape(-1, hidden.shape[-1]), indices.reshape(-1, indices.shape[-1])
        parts = [F.linear(flat[rows], head).gather(-1, wanted[rows]) for rows in token_chunks(flat, head.shape[0])]
        return torch.cat(parts).view_as(indices)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        head, indices = ctx.saved_tensors
        k = indices.shape[-1]
        weights = gradients[0].to(head.dtype).reshape(-1, k)
        bags = F.embedding_bag(indices.reshape(-1, k), head, per_sample_weights=weights, mode="sum")
        return bags.view(*indices.shape[:-1], -1), None, None


def candidate_logits(policy: Policy, hidden: Tensor, indices: Tensor) -> Tensor:
    """Logits at ``indices``, differentiable in ``hidden``.  [B, T, d], [B, T, k] -> [B, T, k], in fp32 (fp64 stays fp64)."""
    head = policy.plain_head
    if head is None:
        return policy.logits(hidden).gather(-1, indices)
    found: Tensor = _CandidateLogits.apply(hidden, head, indices)  # type: ignore[no-untyped-call]
    return found if found.dtype == torch.float64 else found.float()
