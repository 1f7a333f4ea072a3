"""Gradients before an optimizer step: clipped and measured, or taken out."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def clip_and_measure(weights: Iterable[nn.Parameter], max_norm: float | None) -> dict[str, float]:
    """Clip the global gradient norm and say what it was.

    Returns:
        ``grad_norm``: global norm before clipping; ``grad_norm_tensor_mean`` and ``grad_norm_tensor_std``: mean and standard
        deviation (ddof 0) of per-tensor norms across parameter tensors, the input of the paper's "Grad Var";
        ``grad_clipped``: 1 if the gradient was clipped.

    Raises:
        FloatingPointError: the gradient is not finite.
    """
    gradients = [weight.grad for weight in weights if weight.grad is not None]
    norms = torch.stack([gradient.norm() for gradient in gradients])
    total = norms.norm()
    if not torch.isfinite(total):
        raise FloatingPointError(
            "the gradient is not finite: lower optimizer.lr, raise the temperature, or use straight-through tokens (method=grade_ste)"
        )
    clipped = max_norm is not None and bool(total > max_norm)
    if clipped and max_norm is not None:
        for gradient in gradients:
            gradient.mul_(max_norm / total)
    return {
        "grad_norm": float(total), "grad_norm_tensor_mean": float(norms.mean()),
        "grad_norm_tensor_std": float(norms.std(correction=0)), "grad_clipped": float(clipped),
    }  # fmt: skip


def take_gradients(weights: Iterable[nn.Parameter]) -> list[Tensor]:
    """Each weight's gradient, zero where it has none; the weights are left without."""
    found = []
    for weight in weights:
        found.append(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        weight.grad = None
    return found
