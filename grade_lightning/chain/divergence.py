"""KL to the reference and its gradients with respect to hidden states, in chunks of tokens."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from grade_lightning.chain.chunks import token_chunks
from grade_lightning.estimators import exact_kl
from grade_lightning.models.ends import OutputHead
from grade_lightning.models.policy import Policy


class KLGradients(NamedTuple):
    """Exact KL in nats, and the gradients of its sum over real tokens.

    Attributes:
        kl: [B, T], 0 where the mask is False.
        hidden: [B, T, d] gradient with respect to the policy's predicting states.
        reference_hidden: [B, T, d] gradient with respect to the reference's.
    """

    kl: Float[Tensor, "B T"]
    hidden: Float[Tensor, "B T d"]
    reference_hidden: Float[Tensor, "B T d"]


def kl_gradients(
    policy: Policy, hidden: Float[Tensor, "B T d"], reference_hidden: Float[Tensor, "B T d"], mask: Bool[Tensor, "B T"]
) -> KLGradients:
    """The KL and its gradients as values: logits live inside a chunk, and no graph over the vocabulary outlives it.

    A loss that adds ``(states * gradient).sum()`` has the KL's gradient at these states.

    Args:
        policy: gives the output head.
        hidden: [B, T, d] the policy's predicting states; only their values are used.
        reference_hidden: [B, T, d] the reference's; only their values are used.
        mask: [B, T], True = real token.
    """
    parts = []
    real = [states.detach()[mask] for states in (hidden, reference_hidden)]  # [N, d] without padding
    for rows in token_chunks(real[0], policy.vocab_size):
        parts.append(_by_hand(policy, *(states[rows] for states in real)))
    found = [torch.cat(columns) for columns in zip(*parts, strict=True)]
    return KLGradients(*(column.new_zeros(*mask.shape, *column.shape[1:]).masked_scatter_(_like(mask, column), column) for column in found))


@torch.no_grad()
def _by_hand(
    policy: Policy, own: Float[Tensor, "N d"], other: Float[Tensor, "N d"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N d"], Float[Tensor, "N d"]]:
    """[N, d], [N, d] -> KL [N] and its gradients [N, d]; two and a half times fewer passes over [N, V] than autograd makes.

    With log-probabilities log p and log q: dKL/dl = p (log p - log q - KL) and dKL/dm = q - p.
    """
    head = policy.head
    if head.matrix is None:
        return _by_autograd(policy, own, other)
    (log_p, slope), (log_q, reference_slope) = (_log_probabilities(head, states) for states in (own, other))
    p = log_p.exp()
    ratio = log_p.sub_(log_q)
    kl = torch.linalg.vecdot(p, ratio)
    gradient = ratio.sub_(kl.unsqueeze(-1)).mul_(p)
    reference_gradient = log_q.exp_().sub_(p)
    return kl, head.pull_back(gradient, slope), head.pull_back(reference_gradient, reference_slope)


def _log_probabilities(head: OutputHead, states: Float[Tensor, "N d"]) -> tuple[Float[Tensor, "N V"], Float[Tensor, "N V"] | None]:
    """[N, d] -> log-probabilities [N, V], and the slopes of the cap where the logits have one."""
    logits = head.logits(states)
    return torch.log_softmax(logits, dim=-1), head.slope(logits)


def _by_autograd(
    policy: Policy, own: Float[Tensor, "N d"], other: Float[Tensor, "N d"]
) -> tuple[Float[Tensor, " N"], Float[Tensor, "N d"], Float[Tensor, "N d"]]:
    """What :func:`_by_hand` computes, for any head."""
    with torch.enable_grad():
        own, other = own.requires_grad_(), other.requires_grad_()
        kl = exact_kl(policy.logits(own), policy.logits(other), torch.ones(len(own), dtype=torch.bool, device=own.device))
        gradient, reference_gradient = torch.autograd.grad(kl.sum(), (own, other))
    return kl.detach(), gradient, reference_gradient


def _like(mask: Tensor, column: Tensor) -> Tensor:
    return mask if column.dim() == 1 else mask.unsqueeze(-1)
