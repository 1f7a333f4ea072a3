"""Autoregressive policies small enough to list every sequence, and the exact gradient of their expected reward.

logits_t = b_t + sum_{s<t} e_s A_{t-s}, with e_s the token fed at s as a vector over V: one-hot, or relaxed weights.  All estimators
differentiate the very same function of the e_s that the language models' rollouts are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

Reward = Callable[[Tensor], Tensor]  # [..., T, V] one-hot or relaxed -> [...]


@dataclass(frozen=True)
class Toy:
    """One problem.

    Attributes:
        bias: [T, V]; lag: [T, V, V], lag[s] acts over a distance of s + 1 (the last is unused).
        reward: of a sequence of one-hot or relaxed tokens.
    """

    bias: Tensor
    lag: Tensor
    reward: Reward

    @property
    def shape(self) -> tuple[int, int]:
        return int(self.bias.shape[0]), int(self.bias.shape[1])

    def weights(self) -> Tensor:
        """All parameters in one vector [D]."""
        return torch.cat([self.bias.flatten(), self.lag.flatten()])

    def split(self, flat: Tensor) -> tuple[Tensor, Tensor]:
        """[..., D] -> bias [..., T, V] and lag [..., T, V, V]."""
        steps, size = self.shape
        lead = flat.shape[:-1]
        return flat[..., : steps * size].view(*lead, steps, size), flat[..., steps * size :].view(*lead, steps, size, size)

    def sequences(self) -> Tensor:
        """[V^T, T] every sequence."""
        steps, size = self.shape
        return torch.tensor(list(product(range(size), repeat=steps)))


def step_logits(bias: Tensor, lag: Tensor, fed: list[Tensor]) -> Tensor:
    """Logits of the next token after the fed ones.  [N, T, V], [N, T, V, V], t times [N, V] -> [N, V]."""
    t = len(fed)
    logits = bias[:, t]
    for s, token in enumerate(fed):
        logits = logits + torch.einsum("nv,nvw->nw", token, lag[:, t - s - 1])
    return logits


def log_probability(toy: Toy, flat: Tensor, ids: Tensor) -> Tensor:
    """log p(sequence).  [N, D], [N, T] -> [N]."""
    bias, lag = toy.split(flat)
    tokens = torch.nn.functional.one_hot(ids, toy.shape[1]).to(flat.dtype)
    total = torch.zeros(len(ids), dtype=flat.dtype)
    for t in range(toy.shape[0]):
        logits = step_logits(bias, lag, [tokens[:, s] for s in range(t)])
        total = total + torch.log_softmax(logits, dim=-1).gather(-1, ids[:, t : t + 1]).squeeze(-1)
    return total


def rewards_of(toy: Toy, ids: Tensor) -> Tensor:
    """Reward of hard sequences.  [N, T] -> [N]."""
    return toy.reward(torch.nn.functional.one_hot(ids, toy.shape[1]).to(toy.bias.dtype))


def exact(toy: Toy) -> tuple[Tensor, Tensor, Tensor]:
    """Every sequence's probability [S], reward [S], and the gradient [D] of the expected reward, by summing over all sequences."""
    flat = toy.weights().requires_grad_()
    ids = toy.sequences()
    log_p = log_probability(toy, flat.expand(len(ids), -1), ids)
    rewards = rewards_of(toy, ids)
    (gradient,) = torch.autograd.grad((log_p.exp() * rewards).sum(), flat)
    return log_p.exp().detach(), rewards, gradient


def make_toy(kind: str, *, steps: int, size: int, seed: int = 0) -> Toy:
    """A random policy with one of four rewards: ``linear``, ``smooth``, ``steep`` or ``adversarial``.

    ``adversarial`` equals ``linear`` on every hard sequence; between them its slope points the other way.
    """
    generator = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    bias, lag = 0.7 * normal(steps, size), 0.7 * normal(steps, size, size)
    liked, pair = normal(steps, size), normal(size, size)

    def linear(tokens: Tensor) -> Tensor:
        return (tokens * liked).sum(dim=(-2, -1)) / steps**0.5

    def score(tokens: Tensor) -> Tensor:
        """Linear, and what neighbouring tokens do together."""
        pairs = torch.einsum("...tv,vw,...tw->...", tokens[..., :-1, :], pair, tokens[..., 1:, :])
        return linear(tokens) + 0.5 * pairs / steps**0.5

    def adversarial(tokens: Tensor) -> Tensor:
        bump = tokens * (1 - tokens) * (2 * tokens - 1)  # 0 on every vertex, slope -1 there
        return linear(tokens) + 3.0 * (bump * liked).sum(dim=(-2, -1)) / steps**0.5

    kinds: dict[str, Reward] = {
        "linear": linear, "smooth": lambda tokens: torch.sigmoid(score(tokens)),
        "steep": lambda tokens: torch.sigmoid(12 * score(tokens)), "adversarial": adversarial,
    }  # fmt: skip
    return Toy(bias, lag, kinds[kind])
