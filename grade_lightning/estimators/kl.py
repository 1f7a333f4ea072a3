"""Kullback-Leibler divergence between the policy's and the reference's next-token distributions."""

from __future__ import annotations

import torch
from torch import Tensor


def exact_kl(policy_logits: Tensor, reference_logits: Tensor, mask: Tensor) -> Tensor:
    """KL(policy || reference) at each position, summed over the whole vocabulary, in nats.

        KL_t = sum_v p_t(v) (log p_t(v) - log q_t(v))

    Differentiable in both arguments.  As a loss on sampled prefixes it lacks the score-function effect of a token on
    later prefixes; methods that feed relaxed tokens forward carry that effect through the chain instead.

    Args:
        policy_logits, reference_logits: [B, T, V].
        mask: [B, T], True = real token.

    Returns:
        [B, T], 0 where the mask is False.
    """
    if policy_logits.shape != reference_logits.shape:
        raise ValueError(f"logits differ in shape: {tuple(policy_logits.shape)} and {tuple(reference_logits.shape)}")
    if mask.shape != policy_logits.shape[:-1]:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {tuple(policy_logits.shape[:-1])}")
    log_p = torch.log_softmax(policy_logits, dim=-1)
    log_q = torch.log_softmax(reference_logits, dim=-1)
    per_token = (log_p.exp() * (log_p - log_q)).sum(dim=-1)
    # torch.where, not a product: a padded position may hold NaN.
    return torch.where(mask, per_token, torch.zeros_like(per_token))
