"""Backpropagation through generation without walking through it: parallel re-evaluation and a triangular adjoint.

Let e_t be the embedding fed at completion position t and e~_t the relaxed sample's embedding that the policy computes there
from e_<t.  The rollout fixes the values e = e~.  One parallel pass with e as a leaf rebuilds e~ from the recorded noise,
candidates and hard tokens.  With L the objective as a function of e~ and of the policy's states, the total derivative mu of
L with respect to the policy's inputs solves

    mu = g + J^T mu,        g = dL/de,   J = d e~ / d e.

J is strictly lower triangular in time, so mu = sum_n (J^T)^n g ends after at most T - 1 terms, each one vector-Jacobian
product through the parallel graph; one more backward pass with mu gives the gradient of the weights.  That pass also yields
g + J^T mu, which is mu itself where the series has converged: the residual costs nothing.  :mod:`.triangular` solves it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.models.policy import Policy
from grade_lightning.rollout.candidates import candidate_logits
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.sequential import RelaxedRollout, as_fed
from grade_lightning.rollout.triangular import AdjointReport, backward_through_time
from grade_lightning.rollout.types import Rollout


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


def adjoint_backward(
    policy: Policy, rollout: Rollout, leaf: Tensor, relaxed: RelaxedRollout, objective: Tensor, *, tol: float, max_hops: int | None
) -> AdjointReport:
    """Add the gradient of ``objective`` with respect to the policy's weights to their ``.grad``.

    Args:
        leaf, relaxed: as used to build ``objective``, a function of ``relaxed.weights`` and ``relaxed.hidden``.
        tol, max_hops: see :func:`grade_lightning.rollout.triangular.backward_through_time`.
    """
    outputs = policy.embed_soft(rollout.soft(relaxed.weights), rollout.mask)
    return backward_through_time(objective, outputs, leaf, list(policy.trainable().values()), tol=tol, max_hops=max_hops)
