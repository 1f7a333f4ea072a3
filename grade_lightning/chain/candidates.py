"""Logits of the recorded candidates, without a gradient of the vocabulary's size."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from grade_lightning.models.policy import Policy


class _CandidateLogits(torch.autograd.Function):
    """hidden [N, d], lm_head [V, d], indices [N, k] -> [N, k].

    The gradient with respect to hidden is sum_k g_k lm_head[index_k]: a weighted bag of rows of the head, where autograd would
    scatter g into [N, V] and multiply by the whole head.  An adjoint does this once for each of its terms.  The logits in turn are
    the gradient of such a bag with respect to its weights, hidden being that of the bag.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(head, indices)
        # The gradient is how the values are computed: it is needed in inference mode too, whose own tensors no graph may keep.
        with torch.inference_mode(False), torch.enable_grad():
            table, ids, cotangent = (_outside_inference(tensor) for tensor in (head, indices, hidden.to(head.dtype)))
            weights = torch.zeros(ids.shape, dtype=table.dtype, device=table.device, requires_grad=True)
            (logits,) = torch.autograd.grad(_bags(ids, table, weights), weights, cotangent)
        return logits

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        head, indices = ctx.saved_tensors
        return _bags(indices, head, gradients[0].to(head.dtype)), None, None


def _outside_inference(tensor: Tensor) -> Tensor:
    return tensor.detach().clone() if tensor.is_inference() else tensor


def _bags(indices: Tensor, rows: Tensor, weights: Tensor) -> Tensor:
    """[N, k] of [V, d], weights [N, k] -> [N, d]."""
    return F.embedding_bag(indices, rows, per_sample_weights=weights, mode="sum")


def candidate_logits(policy: Policy, hidden: Float[Tensor, "B T d"], indices: Int[Tensor, "B T k"]) -> Float[Tensor, "B T k"]:
    """Logits at ``indices``, differentiable in ``hidden``.  [B, T, d], [B, T, k] -> [B, T, k], in fp32 (fp64 stays fp64)."""
    head, matrix = policy.head, policy.head.matrix
    if matrix is None:
        return head.logits(hidden).gather(-1, indices)
    flat: Tensor = _CandidateLogits.apply(head.scaled(hidden).flatten(0, -2), matrix, indices.flatten(0, -2))  # type: ignore[no-untyped-call]
    return head.capped(flat.view_as(indices))
