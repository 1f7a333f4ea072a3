"""Losses whose gradient is a policy gradient.  Log-probabilities are [B, T] of the sampled tokens; mask True = real token."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def _check(mask: Tensor, **tensors: Tensor) -> None:
    for name, tensor in tensors.items():
        if tensor.shape != mask.shape or mask.dim() != 2:
            raise ValueError(f"{name} must have the shape [B, T] of the mask {tuple(mask.shape)}, got {tuple(tensor.shape)}")


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    real = mask.bool()
    return torch.where(real, values, torch.zeros_like(values)).sum() / real.sum().clamp_min(1)


def reinforce_loss(
    logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, " B"],
    mask: Shaped[Tensor, "B T"],
    *,
    lengths: Shaped[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Score-function loss (Williams 1992; eq. 5): -mean over the batch of advantage x sum of log-probabilities over real tokens.

    Args:
        logprobs: [B, T] log-probabilities of the sampled tokens.
        advantages: [B] what each completion is credited with; no gradient passes through them.
        mask: [B, T], True (1) = real token.
        lengths: [B] what each row's sum is divided by; it is not divided if None.  GRPO divides by the row's length, Dr. GRPO by
            one number for all rows.

    Returns:
        The loss and its metrics (mean log-probability of a completion).
    """
    _check(mask, logprobs=logprobs)
    if advantages.shape != logprobs.shape[:1]:
        raise ValueError(f"advantages must be [B] = [{logprobs.shape[0]}], got {tuple(advantages.shape)}")
    sums = torch.where(mask.bool(), logprobs, torch.zeros_like(logprobs)).sum(dim=1)
    credited = sums if lengths is None else sums / lengths
    return -(advantages.detach() * credited).mean(), {"sequence_logprob": sums.detach().mean()}


def ppo_clip_loss(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    *,
    cliprange: float,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Clipped surrogate (Schulman et al. 2017, eq. 7; eq. 6), mean over real tokens.

        loss = mean max(-A rho, -A clip(rho, 1 - eps, 1 + eps)),        rho = exp(logprobs - old_logprobs)

    Args:
        logprobs: [B, T] log-probabilities of the sampled tokens under the policy.
        old_logprobs: [B, T] the same tokens' under the policy that sampled them.
        advantages: [B, T]; no gradient passes through them.
        mask: [B, T], True (1) = real token.
        cliprange: eps > 0.

    Returns:
        The loss and its metrics: share of tokens whose clipped branch is the active one, and the k3 estimate of
        KL(old || new) in nats per token.
    """
    _check(mask, logprobs=logprobs, old_logprobs=old_logprobs, advantages=advantages)
    if cliprange <= 0:
        raise ValueError(f"cliprange must be positive, got {cliprange}")
    # A padded position may hold anything; zeros keep exp() finite, so that its gradient is 0 and not NaN.
    log_ratio = torch.where(mask.bool(), logprobs - old_logprobs, torch.zeros_like(logprobs))
    ratio, fixed = log_ratio.exp(), advantages.detach()
    free, clipped = -fixed * ratio, -fixed * ratio.clamp(1.0 - cliprange, 1.0 + cliprange)
    with torch.no_grad():
        metrics = {"clipfrac": _mean((clipped > free).to(ratio.dtype), mask), "approx_kl": _mean(ratio - 1.0 - log_ratio, mask)}
    return _mean(torch.maximum(free, clipped), mask), metrics


def value_loss(
    values: Float[Tensor, "B T"],
    returns: Float[Tensor, "B T"],
    mask: Shaped[Tensor, "B T"],
    *,
    old_values: Float[Tensor, "B T"] | None = None,
    cliprange: float | None = None,
) -> Float[Tensor, ""]:
    """Half the mean squared error over real tokens; with ``cliprange`` the larger of it and that of values kept near the old ones.

    Args:
        values: [B, T] predicted values.
        returns: [B, T] what they should be; no gradient passes through them.
        mask: [B, T], True (1) = real token.
        old_values: [B, T] values when the batch was sampled; needed with ``cliprange``.
        cliprange: largest move from ``old_values`` that is credited; there is no limit if None.

    Raises:
        ValueError: the shapes do not agree, or ``cliprange`` without ``old_values``.
    """
    _check(mask, values=values, returns=returns)
    error = (values - returns.detach()) ** 2
    if cliprange is not None:
        if old_values is None:
            raise ValueError("clipping the value loss needs old_values")
        near = old_values + (values - old_values).clamp(-cliprange, cliprange)
        error = torch.maximum(error, (near - returns.detach()) ** 2)
    return 0.5 * _mean(error, mask)
