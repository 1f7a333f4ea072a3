"""Kullback-Leibler divergence between the policy's and the reference's next-token distributions."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def exact_kl(
    policy_logits: Float[Tensor, "*batch V"], reference_logits: Float[Tensor, "*batch V"], mask: Bool[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """KL(policy || reference) at each position, summed over the whole vocabulary, in nats.

        KL_t = sum_v p_t(v) (log p_t(v) - log q_t(v))

    Differentiable in both arguments.  As a loss on sampled prefixes it lacks the score-function effect of a token on
    later prefixes; methods that feed relaxed tokens forward carry that effect through the chain instead.

    Args:
        policy_logits: [..., V], usually [B, T, V].
        reference_logits: [..., V].
        mask: [...] bool, True = real token.

    Returns:
        [...] nats, 0 where the mask is False.

    Raises:
        ValueError: the shapes do not agree.
    """
    if policy_logits.shape != reference_logits.shape:
        raise ValueError(f"logits differ in shape: {tuple(policy_logits.shape)} and {tuple(reference_logits.shape)}")
    if mask.shape != policy_logits.shape[:-1]:
        raise ValueError(f"mask has shape {tuple(mask.shape)}, expected {tuple(policy_logits.shape[:-1])}")
    log_p = torch.log_softmax(policy_logits, dim=-1)
    log_q = torch.log_softmax(reference_logits, dim=-1)
    per_token = torch.linalg.vecdot(log_p.exp(), log_p - log_q)
    # torch.where, not a product: a padded position may hold NaN.
    return torch.where(mask, per_token, torch.zeros_like(per_token))


SAMPLED_KL = ("k1", "k2", "k3")


def sampled_kl(log_ratio: Float[Tensor, "*shape"], estimator: str) -> Float[Tensor, "*shape"]:
    """Estimates of KL(policy || reference) from the sampled token alone (Schulman 2020, "Approximating KL divergence").

        k1 = log p - log q,        k2 = (log p - log q)^2 / 2,        k3 = q / p - 1 + log p - log q

    k1 and k3 are unbiased values, k2 is not.  As a *loss* only k2 has the gradient of the KL in expectation; k1's is zero and
    k3's is that of KL(reference || policy).  With logits at hand :func:`exact_kl` is better in every respect.

    Args:
        log_ratio: [...] log p - log q of tokens sampled from p.
        estimator: ``k1``, ``k2`` or ``k3``.

    Returns:
        [...] nats.

    Raises:
        ValueError: another estimator.
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return 0.5 * log_ratio**2
    if estimator == "k3":
        return torch.expm1(-log_ratio) + log_ratio
    raise ValueError(f"the KL estimator {estimator} is unknown: use one of {', '.join(SAMPLED_KL)}")
