"""Straight-through estimators beyond the Gumbel-softmax one: hard tokens forward, different gradients backward.

All take the logits and Gumbel noise of k candidates and return k weights whose value is the one-hot hard sample D ~ softmax(l),
drawn by the Gumbel-max rule, so that they feed the same tokens for the same noise and differ in the gradient alone.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from grade_lightning.estimators.hashing import hashed_exponential
from grade_lightning.estimators.relaxations import SoftTokens, check_tau, draw_topk, hard_sample, hard_value


def decoupled_st_weights(
    logits: Float[Tensor, "*batch k"], noise: Float[Tensor, "*batch k"], tau: float, *, hard: Int[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch k"]:
    """Decoupled straight-through (2410.13331): sampled at temperature 1, differentiated as softmax(l / tau).

        y = D - sg(p) + p,        p = softmax(l / tau)

    tau = 1 is the plain straight-through estimator (Bengio et al. 1308.3432).  Cost: that of Gumbel-softmax.  The gradient does not
    depend on the noise other than through D.

    Args:
        logits: [..., k] logits of the candidates.
        noise: [..., k] standard Gumbel noise.
        tau: temperature of the backward pass, > 0.
        hard: [...] position of the hard sample; argmax(l + g) if None.
    """
    check_tau(tau)
    return hard_value(hard_sample(logits, noise, hard), torch.softmax(logits / tau, dim=-1))


def reinmax_weights(
    logits: Float[Tensor, "*batch k"], noise: Float[Tensor, "*batch k"], tau: float, *, hard: Int[Tensor, "*batch"] | None = None
) -> Float[Tensor, "*batch k"]:
    """ReinMax (Liu et al. 2304.08612, eq. 5 and algorithm 2): Heun's second-order approximation of the exact gradient.

        p1 = (D + softmax(l / tau)) / 2,      s = 2 softmax(sg(ln p1 - l) + l) - softmax(l) / 2,      y = D - sg(s) + s

    Exact in expectation for rewards quadratic in the one-hot sample at tau = 1; meant for tau >= 1.  Cost: two more softmaxes of k.

    The arguments are those of :func:`decoupled_st_weights`.
    """
    check_tau(tau)
    onehot = hard_sample(logits, noise, hard)
    # A candidate outside the support (logit -inf) has no part in any of it.
    inside = logits.isfinite()
    average = (onehot + torch.softmax(logits / tau, dim=-1)) / 2
    log_p = torch.log_softmax(logits, dim=-1)  # an offset common to all logits would cost digits in the sum below
    shift = torch.where(inside, average.log() - log_p, torch.zeros_like(logits)).detach()
    surrogate = 2 * torch.softmax(shift + log_p, dim=-1) - log_p.exp() / 2
    return hard_value(onehot, surrogate)


def gumbel_rao_weights(
    logits: Float[Tensor, "*batch k"],
    noise: Float[Tensor, "*batch k"],
    tau: float,
    *,
    hard: Int[Tensor, "*batch"] | None = None,
    samples: int = 16,
) -> Float[Tensor, "*batch k"]:
    """Gumbel-Rao (Paulus et al. 2010.04838): the straight-through Gumbel-softmax gradient averaged over the noise given D.

        y = D - sg(m) + m,        m = mean_j softmax((l + G_j) / tau),        G_j ~ Gumbel noise given argmax(l + G_j) = D

    No gradient passes through G_j.  Same expectation as straight-through Gumbel-softmax, never more variance.  Cost: ``samples``
    softmaxes of k, on logits alone; the model runs once.

    The inner noise is a hash of ``noise``: the same rollout evaluated again, in any split of the batch, draws the same.

    Args:
        logits: [..., k] logits of the candidates.
        noise: [..., k] standard Gumbel noise.
        tau: temperature of the backward pass, > 0.
        hard: [...] position of the hard sample; argmax(l + g) if None.
        samples: number of inner draws K, at least 1.
    """
    check_tau(tau)
    if samples < 1:
        raise ValueError(f"gumbel_rao needs at least one inner sample, got samples={samples}")
    onehot = hard_sample(logits, noise, hard)
    mean = torch.zeros_like(logits)
    for j in range(samples):
        mean = mean + torch.softmax((logits + conditional_gumbels(logits.detach(), onehot, noise, j)) / tau, dim=-1) / samples
    return hard_value(onehot, mean)


def conditional_gumbels(
    logits: Float[Tensor, "*batch k"], onehot: Float[Tensor, "*batch k"], noise: Float[Tensor, "*batch k"], draw: int
) -> Float[Tensor, "*batch k"]:
    """Gumbel noise given which perturbed logit is the largest (Maddison et al. 2014; Tucker et al. 2017).

    With E_i standard exponentials and log-probabilities l: the largest perturbed one is -log E_D, and any other is
    -log(E_i e^-l_i + E_D).  Logits differ from log-probabilities by a common offset, which the noise does not depend on.

    Args:
        logits: [..., k], without gradients.
        onehot: [..., k] the hard sample D.
        noise: [..., k] keys of the hash.
        draw: number of the inner draw.

    Returns:
        [..., k] noise G with argmax(l + G) = D; 0 where a logit is -inf.
    """
    exponential = hashed_exponential(noise, draw).to(logits.dtype)
    inside = logits.isfinite()
    finite = torch.where(inside, torch.log_softmax(logits, dim=-1), torch.zeros_like(logits))
    of_largest = (exponential * onehot).sum(dim=-1, keepdim=True).log()
    # In logarithms: e^-l of an unlikely candidate overflows.
    others = -torch.logaddexp(exponential.log() - finite, of_largest)
    return torch.where(inside, torch.where(onehot > 0, -of_largest, others) - finite, torch.zeros_like(logits))


def _over_topk(weights: Callable[..., Tensor], logits: Tensor, tau: float, k: int, noise: Tensor | None, **options: int) -> SoftTokens:
    values, indices, noise, hard = draw_topk(logits, k, noise)
    found = weights(values, noise, tau, hard=hard, **options)
    return SoftTokens(indices, found, indices.gather(-1, hard.unsqueeze(-1)).squeeze(-1))


def decoupled_st_topk(
    logits: Float[Tensor, "*batch V"], tau: float, k: int, *, noise: Float[Tensor, "*batch k"] | None = None
) -> SoftTokens:
    """:func:`decoupled_st_weights` over the k largest logits; arguments as :func:`gumbel_softmax_topk`."""
    return _over_topk(decoupled_st_weights, logits, tau, k, noise)


def reinmax_topk(logits: Float[Tensor, "*batch V"], tau: float, k: int, *, noise: Float[Tensor, "*batch k"] | None = None) -> SoftTokens:
    """:func:`reinmax_weights` over the k largest logits; arguments as :func:`gumbel_softmax_topk`."""
    return _over_topk(reinmax_weights, logits, tau, k, noise)


def gumbel_rao_topk(
    logits: Float[Tensor, "*batch V"], tau: float, k: int, *, noise: Float[Tensor, "*batch k"] | None = None, samples: int = 16
) -> SoftTokens:
    """:func:`gumbel_rao_weights` over the k largest logits; arguments as :func:`gumbel_softmax_topk`."""
    return _over_topk(gumbel_rao_weights, logits, tau, k, noise, samples=samples)
