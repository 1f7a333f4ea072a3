"""Gradients as one vector, and those of reward and KL apart."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

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


class Apart:
    """Collects the gradients of the reward and of the KL, while their sum goes to ``.grad`` as ever.

    Args:
        weights: of the policy.

    Attributes:
        reward: [D] of -E[r] so far; None = nothing yet.
        kl: [D] of beta KL so far; None = nothing yet.
    """

    def __init__(self, weights: Iterable[nn.Parameter]):
        self.weights = list(weights)
        self.reward: Tensor | None = None
        self.kl: Tensor | None = None

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What is added to ``.grad`` inside belongs to ``reward`` or ``kl``."""
        before = take_gradient(self.weights)
        yield
        found = take_gradient(self.weights)
        known = getattr(self, name)
        setattr(self, name, found if known is None else known + found)
        give_gradient(self.weights, before + found)

    def take(self, name: str) -> Tensor:
        """[D] a part, zero where nothing was added to it, and forget it."""
        found = getattr(self, name)
        setattr(self, name, None)
        return torch.zeros(sum(w.numel() for w in self.weights), device=self.weights[0].device) if found is None else found
