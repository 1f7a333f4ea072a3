"""Relaxed samples of categorical variables, restricted to the k largest logits (eq. 7, 9 and 14 of the paper).

A relaxation maps the logits and the Gumbel noise of k candidates to k weights.  The same weights can be computed twice:
once when tokens are sampled (the hard token is then the argmax) and again when a recorded rollout is re-evaluated with
gradients, where the recorded hard token is passed in, because recomputing an argmax in low precision could change it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class SoftTokens(NamedTuple):
    """Relaxed samples, stored sparsely.

    Attributes:
        indices: [..., k] vocabulary indices, in the order of ``logits.topk(k)`` (descending logits).
        weights: [..., k] weights that sum to 1; one-hot in value, with the gradient of the soft sample, if straight-through.
        token_ids: [...] the hard sample: the index with the largest perturbed logit.
    """

    indices: Int[Tensor, "*batch k"]
    weights: Float[Tensor, "*batch k"]
    token_ids: Int[Tensor, "*batch"]


def gumbel_noise(
    shape: tuple[int, ...], *, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float32
) -> Float[Tensor, "*shape"]:
    """Standard Gumbel variates, -log(E) with E ~ Exponential(1), on the CPU.

    Args:
        shape: of the result.
        generator: of the random numbers; torch's global CPU generator if None.
        dtype: of the result.
    """
    return -torch.empty(shape, dtype=dtype).exponential_(generator=generator).log()


def check_tau(tau: float) -> None:
    """Raise ValueError for a relaxation temperature that is not positive."""
    if tau <= 0:
        raise ValueError(f"the relaxation temperature must be positive, got tau={tau}")


def hard_sample(
    logits: Float[Tensor, "*batch k"], noise: Float[Tensor, "*batch k"], hard: Int[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch k"]:
    """The one-hot [..., k] of the position ``hard`` [...], or of argmax(l + g) if None."""
    position = (logits + noise.to(logits.dtype)).argmax(dim=-1) if hard is None else hard
    return torch.zeros_like(logits).scatter_(-1, position.unsqueeze(-1), 1.0)


def hard_value(onehot: Float[Tensor, "*batch k"], surrogate: Float[Tensor, "*batch k"]) -> Float[Tensor, "*batch k"]:
    """Straight-through: the value of ``onehot``, the gradient of ``surrogate``."""
    # (surrogate - sg(surrogate)) first, so that the value is exactly one-hot.
    return onehot + (surrogate - surrogate.detach())


def gumbel_softmax_weights(
    logits: Float[Tensor, "*batch k"],
    noise: Float[Tensor, "*batch k"],
    tau: float,
    *,
    hard: Int[Tensor, "*batch"] | None = None,
    straight_through: bool = True,
) -> Float[Tensor, "*batch k"]:
    """Gumbel-softmax weights of k candidates (eq. 7), optionally straight-through (eq. 9 and 12).

        y = softmax((l + g) / tau),        y_ste = onehot(hard) - sg(y) + y

    Args:
        logits: [..., k] logits of the candidates.
        noise: [..., k] standard Gumbel noise.
        tau: temperature, > 0.
        hard: [...] position (0..k-1) of the hard sample; argmax(l + g) if None.
        straight_through: the weights have the value of the one-hot hard sample and the gradient of y.

    Returns:
        [..., k] weights, in the dtype of ``logits``.
    """
    check_tau(tau)
    soft = torch.softmax((logits + noise.to(logits.dtype)) / tau, dim=-1)
    return hard_value(hard_sample(logits, noise, hard), soft) if straight_through else soft


def entropy_gated_weights(
    logits: Float[Tensor, "*batch k"], noise: Float[Tensor, "*batch k"], tau: float, *, hard: Int[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch k"]:
    """EntRGi (2602.05000): between the mixture and the hard sample D, by the normalised entropy of the distribution.

        y = q + sg(w (D - q)),      q = softmax(l / tau),      w = H(q) / ln k

    Sure tokens are fed as mixtures, unsure ones as samples; the gradient is that of q.  Made there to guide a diffusion LM by a reward that
    alone sees y; here, as with every relaxation of soft tokens, the policy reads it too.  Of k logits only those that are finite count.

    Args:
        logits: [..., k] logits of the candidates.
        noise: [..., k] standard Gumbel noise.
        tau: temperature of q, > 0.
        hard: [...] position of the hard sample; argmax(l + g) if None.
    """
    check_tau(tau)
    logp = torch.log_softmax(logits / tau, dim=-1)
    soft, inside = logp.exp(), logp.isfinite()
    entropy = -torch.where(inside, soft * logp, 0.0).sum(dim=-1, keepdim=True)
    gate = entropy / inside.sum(dim=-1, keepdim=True).clamp_min(2).log()
    return soft + (gate * (hard_sample(logits, noise, hard) - soft)).detach()


def gumbel_softmax_topk(
    logits: Float[Tensor, "*batch V"],
    tau: float,
    k: int,
    *,
    noise: Float[Tensor, "*batch k"] | None = None,
    straight_through: bool = True,
) -> SoftTokens:
    """Gumbel-softmax over the k largest logits (eq. 14); no tensor of the vocabulary's size is built beyond the logits.

    Args:
        logits: [..., V].
        tau: temperature, > 0.
        k: number of candidates, 1 <= k <= V.
        noise: [..., k] standard Gumbel noise aligned with ``logits.topk(k).indices``; drawn from the global CPU generator if None.
        straight_through: see :func:`gumbel_softmax_weights`.

    Raises:
        ValueError: k outside 1..V, tau <= 0, or noise of another shape.
    """
    values, indices, noise, hard = draw_topk(logits, k, noise)
    weights = gumbel_softmax_weights(values, noise, tau, hard=hard, straight_through=straight_through)
    return SoftTokens(indices, weights, indices.gather(-1, hard.unsqueeze(-1)).squeeze(-1))


def draw_topk(
    logits: Float[Tensor, "*batch V"], k: int, noise: Float[Tensor, "*batch k"] | None
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"], Float[Tensor, "*batch k"], Int[Tensor, "*batch"]]:
    """The k largest logits, their indices, their noise (drawn if None), and the position of the largest perturbed logit.

    Raises:
        ValueError: k outside 1..V, or noise of another shape.
    """
    if not 1 <= k <= logits.shape[-1]:
        raise ValueError(f"top-k must lie between 1 and the vocabulary size {logits.shape[-1]}, got k={k}")
    top = logits.topk(k, dim=-1)
    if noise is None:
        noise = gumbel_noise(tuple(top.values.shape), dtype=logits.dtype).to(logits.device)
    if noise.shape != top.values.shape:
        raise ValueError(f"noise has shape {tuple(noise.shape)}, expected {tuple(top.values.shape)}")
    return top.values, top.indices, noise, (top.values + noise.to(top.values.dtype)).argmax(dim=-1)
