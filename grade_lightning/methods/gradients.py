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
    """Collects the gradient of the whole loss and that of its KL alone; what goes to ``.grad`` is what would go there without it.

    Args:
        weights: of the policy.
    """

    def __init__(self, weights: Iterable[nn.Parameter]):
        self.weights = list(weights)
        self._whole: Tensor | None = None
        self._kl: Tensor | None = None

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Inside, the gradient of the whole loss is added to ``.grad``."""
        before = take_gradient(self.weights)
        yield
        found = take_gradient(self.weights)
        self._whole = found if self._whole is None else self._whole + found
        give_gradient(self.weights, before + found)

    @contextmanager
    def kl_alone(self) -> Iterator[None]:
        """Inside, the gradient of beta KL is computed once more, and taken away again."""
        before = take_gradient(self.weights)
        yield
        found = take_gradient(self.weights)
        self._kl = found if self._kl is None else self._kl + found
        give_gradient(self.weights, before)

    def set(self, reward: Tensor, kl: Tensor) -> None:
        """Both parts [D], by a method that has made them by itself."""
        self._whole, self._kl = reward + kl, kl

    @property
    def kl(self) -> Tensor:
        """[D] of beta KL so far."""
        return self._nothing() if self._kl is None else self._kl

    @property
    def reward(self) -> Tensor:
        """[D] of all else so far: -E[r], with a method's own terms such as PPO's entropy."""
        return self._nothing() if self._whole is None else self._whole - self.kl

    def _nothing(self) -> Tensor:
        return torch.zeros(sum(w.numel() for w in self.weights), device=self.weights[0].device, dtype=self.weights[0].dtype)
