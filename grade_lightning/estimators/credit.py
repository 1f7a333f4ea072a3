"""First-order effects of drawn tokens: the reward's gradient as credit."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def token_credit(
    logprobs: Float[Tensor, "B T k"], gradient: Float[Tensor, "B T k"], hard: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Effect of each drawn token beyond its expectation, and that expectation, differentiable in the log-probabilities.

    Args:
        logprobs: of the candidates, -inf where one could not be drawn.
        gradient: of the reward in their weights.
        hard: [B, T] position of the drawn one.
    """
    expected = torch.where(logprobs.isfinite(), logprobs.exp() * gradient, 0.0).sum(dim=-1)
    return gradient.gather(-1, hard.unsqueeze(-1)).squeeze(-1) - expected, expected
