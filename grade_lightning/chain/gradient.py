"""The gradient of the mean reward of one recorded rollout, for code that brings its own models and loop."""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.chain.adjoint import adjoint_backward, relax_in_parallel
from grade_lightning.chain.direct import direct_gradient
from grade_lightning.estimators import gumbel_softmax_weights
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout


def gradient(
    policy: Policy, rollout: Rollout, reward: Reward, *, kl_coef: float = 0.0, tau: float = 1.0, relaxation: Relaxation | None = None,
    tol: float = 1e-3, max_hops: int | None = None,
) -> dict[str, Tensor]:  # fmt: skip
    """GRADE's estimate of the gradient of E[r] - beta KL(policy || reference), by the parallel adjoint; ``.grad`` is left as it was.

    Args:
        policy: base LM + LoRA, see :func:`grade_lightning.models.base.as_base` for a model that you have in memory.
        rollout: B hard completions, of :func:`grade_lightning.rollout.sampling.sample`.
        reward: differentiable in relaxed tokens.
        kl_coef: beta, in units of the reward per nat and completion.
        tau: temperature of straight-through Gumbel-softmax.
        relaxation: candidate logits, noise and hard positions to one-hot weights with a gradient; None = straight-through Gumbel-softmax.
        tol: size of the first term of the adjoint that is left out, relative to the sum.
        max_hops: most terms beyond the direct one; as many as it takes if None.

    Returns:
        By name of the trainable weight, in its shape: an ascent direction.

    Raises:
        ValueError: the reward has no gradient.
    """
    if not reward.differentiable:
        raise ValueError("this reward has no gradient with respect to tokens: use a policy gradient, or a surrogate")

    def straight_through(logits: Tensor, noise: Tensor, hard: Tensor) -> Tensor:
        return gumbel_softmax_weights(logits, noise, tau, hard=hard)

    weights = policy.trainable()
    before = {name: weight.grad for name, weight in weights.items()}
    for weight in weights.values():
        weight.grad = None
    try:
        parallel = relax_in_parallel(policy, rollout, relaxation or straight_through)
        relaxed, count = parallel.relaxed, len(rollout)
        direct = direct_gradient(policy, reward, rollout, relaxed, score_weight=1 / count, kl_weight=-kl_coef / count)
        objective = (relaxed.weights * direct.weights).sum() - kl_coef / count * (relaxed.hidden * direct.hidden).sum()
        adjoint_backward(policy, rollout, parallel, objective, tol=tol, max_hops=max_hops)
        return {name: torch.zeros_like(weight) if weight.grad is None else weight.grad for name, weight in weights.items()}
    finally:
        for name, weight in weights.items():
            weight.grad = before[name]
