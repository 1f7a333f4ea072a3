"""Weighted bags of rows of a table, ``sum_k w_k E[i_k]``, and products of a state with such rows, each the gradient of the other.

No [N, k, d] tensor is built where torch has a kernel for it; the table is frozen.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

GATHERED_ELEMENTS = 1 << 27  # of [N, k, d] at once, where rows must be gathered: 256 MiB in bf16


def bags(indices: Int[Tensor, "N k"], table: Float[Tensor, "V d"], weights: Float[Tensor, "N k"]) -> Float[Tensor, "N d"]:
    """Rows of the table, weighted and summed; differentiable in the weights.

    Args:
        indices: [N, k] of rows.
        table: [V, d], frozen.
        weights: [N, k] in the table's dtype.
    """
    found: Tensor = _Bags.apply(weights, table, indices)  # type: ignore[no-untyped-call]
    return found


def dots(states: Float[Tensor, "N d"], table: Float[Tensor, "V d"], indices: Int[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    """Products of each state with rows of its own; differentiable in the states.

    Args:
        states: [N, d].
        table: [V, d], frozen.
        indices: [N, k] of rows.

    Returns:
        [N, k] in the table's dtype.
    """
    found: Tensor = _Dots.apply(states, table, indices)  # type: ignore[no-untyped-call]
    return found


class _Bags(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weights: Tensor, table: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(table, indices)
        return _sum(indices, table, weights)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        table, indices = ctx.saved_tensors
        return _products(gradients[0], table, indices), None, None


class _Dots(torch.autograd.Function):
    """Its gradient is a bag, where autograd would scatter into [N, V] and multiply by the whole table."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, table: Tensor, indices: Tensor) -> Tensor:
        ctx.save_for_backward(table, indices)
        return _products(states.to(table.dtype), table, indices)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        table, indices = ctx.saved_tensors
        return _sum(indices, table, gradients[0].to(table.dtype)), None, None


def _sum(indices: Tensor, table: Tensor, weights: Tensor) -> Tensor:
    return F.embedding_bag(indices, table, per_sample_weights=weights, mode="sum")


def _products(states: Tensor, table: Tensor, indices: Tensor) -> Tensor:
    """By the kernel of a bag's gradient in its weights, which torch lacks for bf16 on CUDA."""
    if table.device.type == "cuda" and table.dtype == torch.bfloat16:
        return gathered_products(states, table, indices)
    # Needed in inference mode too, whose own tensors no graph may keep.
    with torch.inference_mode(False), torch.enable_grad():
        rows, ids, cotangent = (_outside_inference(tensor) for tensor in (table, indices, states))
        weights = torch.zeros(ids.shape, dtype=rows.dtype, device=rows.device, requires_grad=True)
        return torch.autograd.grad(_sum(ids, rows, weights), weights, cotangent)[0]


def gathered_products(states: Float[Tensor, "N d"], table: Float[Tensor, "V d"], indices: Int[Tensor, "N k"]) -> Float[Tensor, "N k"]:
    """What :func:`dots` gives, from copies of the rows, a part of the states at a time."""
    chunk = max(1, GATHERED_ELEMENTS // max(1, indices.shape[-1] * table.shape[-1]))
    parts = [
        torch.bmm(table[ids], own.unsqueeze(-1)).squeeze(-1) for own, ids in zip(states.split(chunk), indices.split(chunk), strict=True)
    ]
    return torch.cat(parts)


def _outside_inference(tensor: Tensor) -> Tensor:
    return tensor.detach().clone() if tensor.is_inference() else tensor
