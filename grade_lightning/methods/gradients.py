"""Gradients as one vector."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn


def take_gradients(weights: Iterable[nn.Parameter]) -> list[Tensor]:
    """Each weight's gradient, zero where it has none; the weights are left without."""
    found = []
    for weight in weights:
        found.append(torch.zeros_like(weight) if weight.grad is None else weight.grad)
        weight.grad = None
    return found


def take_gradient(weights: Iterable[nn.Parameter]) -> Tensor:
    """All of them in a row.  -> [D]."""
    return torch.cat([gradient.flatten() for gradient in take_gradients(weights)])


def give_gradient(weights: Iterable[nn.Parameter], flat: Tensor) -> None:
    """Make a vector [D] the weights' gradients."""
    listed = list(weights)
    for weight, part in zip(listed, flat.split([weight.numel() for weight in listed]), strict=True):
        weight.grad = part.view_as(weight).clone()
