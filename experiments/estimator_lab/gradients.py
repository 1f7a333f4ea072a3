"""Per-rollout gradients of every estimator on a toy, [N, D], from the package's own relaxations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from experiments.estimator_lab.sequence import Toy, log_probability, rewards_of, step_logits
from grade_lightning.estimators import (
    decoupled_st_weights,
    gumbel_noise,
    gumbel_rao_weights,
    gumbel_softmax_weights,
    reinmax_weights,
    rloo_advantages,
)

Relaxation = Callable[[Tensor, Tensor, Tensor | None], Tensor]  # logits [N, V], noise [N, V], hard tokens [N] -> weights [N, V]


def draw_noise(toy: Toy, rollouts: int, seed: int) -> Tensor:
    """[N, T, V] standard Gumbel noise."""
    return gumbel_noise((rollouts, *toy.shape), generator=torch.Generator().manual_seed(seed)).double()


def sample_ids(toy: Toy, noise: Tensor) -> Tensor:
    """The hard sequences that this noise draws.  [N, T, V] -> [N, T]."""
    flat = toy.weights().expand(len(noise), -1)
    bias, lag = toy.split(flat)
    fed: list[Tensor] = []
    for t in range(toy.shape[0]):
        position = (step_logits(bias, lag, fed) + noise[:, t]).argmax(dim=-1)
        fed.append(torch.nn.functional.one_hot(position, toy.shape[1]).to(noise.dtype))
    return torch.stack(fed, dim=1).argmax(dim=-1)


def relaxed_gradients(toy: Toy, noise: Tensor, relax: Relaxation, *, ids: Tensor | None = None, max_hops: int | None = None) -> Tensor:
    """Backpropagation of the reward through the relaxed rollout.

    Args:
        ids: [N, T] the hard tokens, for relaxations whose gradient needs no noise beyond them; drawn by the noise if None.
        max_hops: 0 = a token's effect on later tokens carries no gradient; None = all of it.
    """
    flat = toy.weights().expand(len(noise), -1).clone().requires_grad_()
    bias, lag = toy.split(flat)
    fed: list[Tensor] = []
    for t in range(toy.shape[0]):
        seen = [token.detach() for token in fed] if max_hops == 0 else fed
        fed.append(relax(step_logits(bias, lag, seen), noise[:, t], None if ids is None else ids[:, t]))
    (gradient,) = torch.autograd.grad(toy.reward(torch.stack(fed, dim=1)).sum(), flat)
    return gradient


def policy_gradients(toy: Toy, ids: Tensor, advantages: Tensor) -> Tensor:
    """advantage x grad log p of each sequence.  [N, T], [N] -> [N, D]."""
    flat = toy.weights().expand(len(ids), -1).clone().requires_grad_()
    (gradient,) = torch.autograd.grad((advantages * log_probability(toy, flat, ids)).sum(), flat)
    return gradient


def rloo_gradients(toy: Toy, ids: Tensor, *, group: int = 4) -> Tensor:
    """Each rollout's part of RLOO's gradient: their mean over a group is the estimate.  [N, T] -> [N, D]."""
    advantages = rloo_advantages(rewards_of(toy, ids).view(-1, group)).flatten()
    return policy_gradients(toy, ids, advantages)


BY_TOKENS = ("decoupled ST", "ReinMax")  # whose gradient is a function of the hard tokens alone: exact by listing them


def relaxations(tau: float) -> dict[str, Relaxation]:
    """Every relaxation of the package at one temperature (ReinMax from 1 up, as it is meant)."""
    found: dict[str, Relaxation] = {
        "Gumbel-softmax": lambda logits, g, d: gumbel_softmax_weights(logits, g, tau, straight_through=False),
        "straight-through": lambda logits, g, d: gumbel_softmax_weights(logits, g, tau, hard=d),
        "decoupled ST": lambda logits, g, d: decoupled_st_weights(logits, g, tau, hard=d),
        "Gumbel-Rao, K=16": lambda logits, g, d: gumbel_rao_weights(logits, g, tau, hard=d, samples=16),
    }
    if tau >= 1:
        found["ReinMax"] = lambda logits, g, d: reinmax_weights(logits, g, tau, hard=d)
    return found
