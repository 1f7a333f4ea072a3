"""Advantages and returns: what each sampled token or completion is credited with."""

from __future__ import annotations

import torch
from jaxtyping import Float, Shaped
from torch import Tensor


def gae(
    rewards: Float[Tensor, "B T"], values: Float[Tensor, "B T"], mask: Shaped[Tensor, "B T"], *, gamma: float, lam: float
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Generalised advantage estimation (Schulman et al. 2016, eq. 16) over the time axis of a batch of episodes.

        delta_t = r_t + gamma V_{t+1} - V_t,        A_t = delta_t + gamma lam A_{t+1},        returns = A + V

    An episode is the real tokens of a row; after its last one there is no value and no advantage.

    Args:
        rewards: [B, T] reward of each token.
        values: [B, T] value of the state before each token.
        mask: [B, T], True (1) = real token; real tokens come first.
        gamma: discount of what comes a token later.
        lam: trace decay, 0 = one-step differences, 1 = whole returns.

    Returns:
        Advantages and returns, both [B, T], zero where the mask is False.
    """
    if not rewards.shape == values.shape == mask.shape or rewards.dim() != 2:
        raise ValueError(
            f"rewards, values and mask must all be [B, T], got {tuple(rewards.shape)}, {tuple(values.shape)}, {tuple(mask.shape)}"
        )
    real = mask.bool()
    rewards, values = rewards.masked_fill(~real, 0.0), values.masked_fill(~real, 0.0)
    advantages = torch.zeros_like(rewards + values)  # in the wider of their types
    following_value = following_advantage = torch.zeros_like(values[:, 0])
    for t in reversed(range(values.shape[1])):
        delta = rewards[:, t] + gamma * following_value - values[:, t]
        advantages[:, t] = torch.where(real[:, t], delta + gamma * lam * following_advantage, 0.0)
        following_value, following_advantage = values[:, t], advantages[:, t]
    return advantages, torch.where(real, advantages + values, 0.0)


def rloo_advantages(scores: Float[Tensor, "P G"]) -> Float[Tensor, "P G"]:
    """REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2402.14740): each score minus the mean of the others.

    Args:
        scores: [P, G], G >= 2 completions of each of P prompts.

    Returns:
        [P, G].
    """
    size = _group_size(scores)
    return (scores - scores.mean(dim=1, keepdim=True)) * (size / (size - 1))


def grpo_advantages(scores: Float[Tensor, "P G"], *, normalise_std: bool = True, epsilon: float = 1e-4) -> Float[Tensor, "P G"]:
    """Group-relative advantages (Shao et al. 2402.03300): score minus the group's mean, over the group's standard deviation.

    Args:
        scores: [P, G], G >= 2 completions of each of P prompts.
        normalise_std: divide by the standard deviation (ddof 1); False = Dr. GRPO (Liu et al. 2503.20783).
        epsilon: added to the standard deviation.

    Returns:
        [P, G].
    """
    _group_size(scores)
    centred = scores - scores.mean(dim=1, keepdim=True)
    return centred / (scores.std(dim=1, keepdim=True) + epsilon) if normalise_std else centred


def spread_weights(scores: Float[Tensor, "P G"], *, epsilon: float = 1e-4) -> Float[Tensor, " P"]:
    """What :func:`grpo_advantages` multiplies the advantages of each prompt by, brought to the length of :func:`rloo_advantages`.

        w_p = a / (s_p + epsilon),        a so that sum_p w_p s_p^2 = sum_p s_p^2

    with s_p the standard deviation (ddof 1) of a prompt's scores: along RLOO's advantages A the weighted ones are as long as they are,
    <w A, A> = <A, A>.

    Args:
        scores: [P, G], G >= 2 completions of each of P prompts.
        epsilon: added to the standard deviations.

    Returns:
        [P], all 1 where no prompt's scores differ.
    """
    _group_size(scores)
    spread = scores.std(dim=1)
    square, weights = spread.square(), 1 / (spread + epsilon)
    along = (weights * square).sum()
    return weights * square.sum() / along if along > 0 else torch.ones_like(spread)


def _group_size(scores: Tensor) -> int:
    if scores.dim() != 2 or scores.shape[1] < 2:
        raise ValueError(f"scores must be [prompts, completions] with at least 2 completions of each prompt, got {tuple(scores.shape)}")
    return scores.shape[1]


def whiten(values: Float[Tensor, "B T"], mask: Shaped[Tensor, "B T"], *, epsilon: float = 1e-8) -> Float[Tensor, "B T"]:
    """Values shifted and scaled to zero mean and unit variance (ddof 0) over the real tokens of the whole batch.

    Args:
        values: [B, T].
        mask: [B, T], True (1) = real token.
        epsilon: added to the variance.

    Returns:
        [B, T], 0 where the mask is False.
    """
    real = mask.bool()
    chosen = values[real]
    normal = (values - chosen.mean()) * torch.rsqrt(chosen.var(correction=0) + epsilon)
    return torch.where(real, normal, torch.zeros_like(normal))
