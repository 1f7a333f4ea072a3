"""The step from a gradient to new weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from grade_lightning.methods.base import Method
from grade_lightning.settings.run import OptimizerSettings


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


def optimizer_of(method: Method, settings: OptimizerSettings) -> torch.optim.Optimizer:
    """The optimizer of the policy's adapters, and in further groups of the method's own weights."""
    weights = list(method.policy.trainable().values())
    if settings.name == "sgd":
        return torch.optim.SGD(weights, lr=settings.lr)
    betas = (settings.betas[0], settings.betas[1])
    optimizer = torch.optim.AdamW(weights, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay)
    for group in method.weight_groups(settings.lr):
        optimizer.add_param_group(group)
    return optimizer
