"""Backpropagation through generation without walking through it: parallel re-evaluation and a triangular adjoint.

Let e_t be the embedding fed at completion position t and e~_t the relaxed sample's embedding that the policy computes there
from e_<t.  The rollout fixes the values e = e~.  One parallel pass with e as a leaf rebuilds e~ from the recorded noise,
candidates and hard tokens.  With L the objective as a function of e~ and of the policy's states, the total derivative mu of
L with respect to the policy's inputs solves

    mu = g + J^T mu,        g = dL/de,   J = d e~ / d e.

J is strictly lower triangular in time, so mu = sum_n (J^T)^n g ends after at most T - 1 terms, each one vector-Jacobian
product through the parallel graph; one more backward pass with mu gives the gradient of the weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.rollout.candidates import candidate_logits
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.sequential import RelaxedRollout, as_fed
from grade_lightning.rollout.types import Rollout


@dataclass(frozen=True)
class AdjointReport:
    """How the series went.

    Attributes:
        hops: terms summed beyond g, the largest over rows.
        first_ratio: ||J^T g|| / ||g||, mean over rows; near or above 1 the chain expands.
        last_ratio: ||last term|| / ||sum||, the largest over rows.
        truncated: the sum was cut by ``max_hops`` before its tolerance was met.
    """

    hops: int
    first_ratio: float
    last_ratio: float
    truncated: bool


def fed_embeddings(policy: Policy, rollout: Rollout) -> Tensor:
    """The embeddings that the rollout fed at completion positions, as a leaf.  -> [B, T, d]."""
    if rollout.weights is None:
        return policy.embed(rollout.completion_ids).detach().requires_grad_()
    return policy.embed_soft(rollout.soft(rollout.weights), rollout.mask).detach().requires_grad_()


def relax_in_parallel(policy: Policy, rollout: Rollout, leaf: Tensor, relax: Relaxation) -> RelaxedRollout:
    """All relaxed samples at once, as functions of the fed embeddings and of the policy's weights.

    Args:
        leaf: [B, T, d] from :func:`fed_embeddings`.
        relax: as in :func:`grade_lightning.rollout.sequential.relax_sequentially`.
    """
    prompt = rollout.prompt
    # The state after the last completion token predicts nothing.
    before, states = policy.states(prompt.ids, prompt.mask, leaf[:, :-1], rollout.mask[:, :-1])
    hidden = torch.cat([before[:, -1:], states], dim=1)
    candidates = rollout.on_support(candidate_logits(policy, hidden, rollout.indices))
    weights = as_fed(rollout, relax(candidates, rollout.noise, rollout.hard))
    return RelaxedRollout(weights, hidden, candidates.detach())


def _row_norms(term: Tensor) -> Tensor:
    flat = term.flatten(1)
    return (flat if flat.dtype == torch.float64 else flat.float()).norm(dim=1)


def adjoint_backward(
    policy: Policy, rollout: Rollout, leaf: Tensor, relaxed: RelaxedRollout, objective: Tensor, *, tol: float, max_hops: int | None
) -> AdjointReport:
    """Add the gradient of ``objective`` with respect to the policy's weights to their ``.grad``.

    Args:
        leaf, relaxed: as used to build ``objective``, a function of ``relaxed.weights`` and ``relaxed.hidden``.
        tol: a row's series ends when ||term|| <= tol ||sum||; rows do not influence each other.
        max_hops: most terms; None = as many as it takes, T - 1 at most, where the sum is exact.  Fewer on purpose is truncated
            backpropagation through time: an estimator with less variance and some bias.
    """
    outputs = policy.embed_soft(rollout.soft(relaxed.weights), rollout.mask)
    (term,) = torch.autograd.grad(objective, leaf, retain_graph=True)
    total, first = term.clone(), _row_norms(term)
    most = leaf.shape[1] - 1 if max_hops is None else min(max_hops, leaf.shape[1] - 1)
    hops, first_ratio, ratio = 0, 0.0, torch.full_like(first, torch.inf)
    tiny = torch.finfo(first.dtype).tiny
    active = first > 0
    while hops < most and bool(active.any()):
        (term,) = torch.autograd.grad(outputs, leaf, term, retain_graph=True)
        term = torch.where(active[:, None, None], term, 0.0)
        total = total + term
        hops += 1
        ratio = torch.where(active, _row_norms(term) / _row_norms(total).clamp_min(tiny), ratio)
        if hops == 1:
            first_ratio = float((_row_norms(term) / first.clamp_min(tiny)).mean())
        active = active & (ratio > tol)
    truncated = bool(active.any()) and hops < leaf.shape[1] - 1
    torch.autograd.backward([objective, outputs], [torch.ones_like(objective), total], inputs=list(policy.trainable().values()))
    last = ratio[ratio.isfinite()]
    return AdjointReport(hops, first_ratio, float(last.max()) if len(last) else 0.0, truncated)
