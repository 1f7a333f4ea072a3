"""KL to the reference and its gradients with respect to hidden states, in chunks of tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from grade_lightning.estimators import exact_kl
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.chunks import token_chunks


class KLGradients(NamedTuple):
    """Exact KL in nats and what its sum over real tokens changes by.

    Attributes:
        kl: [B, T], 0 where the mask is False.
        hidden: [B, T, d] gradient with respect to the policy's predicting states.
        reference_hidden: [B, T, d] gradient with respect to the reference's.
    """

    kl: Tensor
    hidden: Tensor
    reference_hidden: Tensor


def kl_gradients(policy: Policy, hidden: Tensor, reference_hidden: Tensor, mask: Tensor) -> KLGradients:
    """Values only: logits live inside a chunk, and no graph over the vocabulary outlives it.

    A loss that adds ``(states * gradient).sum()`` has the KL's gradient at these states.

    Args:
        hidden, reference_hidden: [B, T, d]; only their values are used.
        mask: [B, T].
    """
    parts = []
    real = [states.detach()[mask] for states in (hidden, reference_hidden)]  # [N, d] without padding
    for rows in token_chunks(real[0], policy.vocab_size):
        with torch.enable_grad():
            own, other = (states[rows].requires_grad_() for states in real)
            kl = exact_kl(policy.logits(own), policy.logits(other), mask.new_ones(len(own)))
            gradients = torch.autograd.grad(kl.sum(), (own, other))
        parts.append((kl.detach(), *gradients))
    found = [torch.cat(columns) for columns in zip(*parts, strict=True)]
    return KLGradients(*(column.new_zeros(*mask.shape, *column.shape[1:]).masked_scatter_(_like(mask, column), column) for column in found))


def _like(mask: Tensor, column: Tensor) -> Tensor:
    return mask if column.dim() == 1 else mask.unsqueeze(-1)
