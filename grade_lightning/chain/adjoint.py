"""Backpropagation through generation without walking through it: parallel re-evaluation and a triangular adjoint.

Let e_t be the embedding fed at completion position t, h_t the policy's state that predicts the token there, a function of e_<t, and
e~_t(h_t) the relaxed sample's embedding.  The rollout fixes the values e = e~.  One parallel pass with e as a leaf gives all states,
and the recorded noise, candidates and hard tokens give the relaxed samples as functions of them, each of its own state alone.  With L
the objective as a function of e~ and h, its total derivative c with respect to the states solves

    c = b + M^T c,        b = dL/dh with e held fixed,   M = (dh/de) (de~/dh).

M is strictly lower triangular in time, so c = sum_n (M^T)^n b ends after at most T - 1 hops from a token to an earlier one, each one
vector-Jacobian product through the parallel graph; b costs none.  One more backward pass with c gives the gradient of the weights.
That pass also yields M^T c, which is c - b where the series has converged: the residual costs nothing.  :mod:`.triangular` solves it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from grade_lightning.chain.candidates import candidate_logits
from grade_lightning.chain.parallel import predicting
from grade_lightning.chain.sequential import RelaxedRollout, as_fed
from grade_lightning.chain.triangular import AdjointReport, Chain, backward_through_time
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout


def _fed_embeddings(policy: Policy, rollout: Rollout) -> Float[Tensor, "B T d"]:
    """The embeddings that the rollout fed at completion positions, as a leaf.  -> [B, T, d]."""
    if rollout.weights is None:
        return policy.embed(rollout.completion_ids).detach().requires_grad_()
    return policy.embed_soft(rollout.soft(rollout.weights), rollout.mask).detach().requires_grad_()


class ParallelRollout(NamedTuple):
    """A rollout evaluated again in one pass.

    Attributes:
        leaf: [B, T, d] the embeddings that were fed.
        states: [B, T, d] the policy's states that predict the tokens, as functions of ``leaf`` and of the policy's weights.
        relaxed: the relaxed samples as functions of ``relaxed.hidden``: the states' values, a leaf of its own.
    """

    leaf: Float[Tensor, "B T d"]
    states: Float[Tensor, "B T d"]
    relaxed: RelaxedRollout


def relax_in_parallel(policy: Policy, rollout: Rollout, relax: Relaxation) -> ParallelRollout:
    """Evaluate a recorded rollout again, all its relaxed samples at once.

    Args:
        policy: its LoRA weights require gradients.
        rollout: what was sampled.
        relax: candidate logits, noise and hard positions to weights, as in :func:`grade_lightning.chain.sequential.relax_sequentially`.
    """
    prompt, leaf = rollout.prompt, _fed_embeddings(policy, rollout)
    # The state after the last completion token predicts nothing.
    before, states = policy.states(prompt.ids, prompt.mask, leaf[:, :-1], rollout.mask[:, :-1], group=prompt.group)
    states = predicting(before, states, rollout.mask.shape[1])
    hidden = states.detach().requires_grad_()
    candidates = rollout.on_support(candidate_logits(policy, hidden, rollout.indices))
    weights = as_fed(rollout, relax(candidates, rollout.noise, rollout.hard))
    return ParallelRollout(leaf, states, RelaxedRollout(weights, hidden, candidates.detach()))


def adjoint_backward(
    policy: Policy,
    rollout: Rollout,
    parallel: ParallelRollout,
    objective: Float[Tensor, ""],
    *,
    tol: float,
    max_hops: int | None,
    beside: Float[Tensor, "B T d"] | None = None,
    keep: bool = False,
) -> AdjointReport:
    """Add the gradient of ``objective`` with respect to the policy's weights to their ``.grad``.

    Args:
        policy: its LoRA weights get the gradient.
        rollout: what was sampled.
        parallel: from :func:`relax_in_parallel`.
        objective: [], a function of ``parallel.relaxed.weights`` and ``parallel.relaxed.hidden``.
        tol: largest size of the first term left out, see :func:`grade_lightning.chain.triangular.backward_through_time`.
        max_hops: most terms beyond the direct one; as many as it takes if None.
        beside: [B, T, d] gradient of another objective with respect to the states, the tokens held fixed: it goes to the weights with the
            same pass and through no token.  None = there is none.
        keep: the graph serves another objective afterwards.
    """
    leaf, states, relaxed = parallel
    outputs = policy.embed_soft(rollout.soft(relaxed.weights), rollout.mask)

    def feed_back(fed: Tensor) -> Tensor:
        return torch.autograd.grad(outputs, relaxed.hidden, fed, retain_graph=True)[0]

    (direct,) = torch.autograd.grad(objective, relaxed.hidden, retain_graph=True)
    weights = list(policy.trainable().values())
    chain = Chain(leaf, states, feed_back, policy.goes_on)
    return backward_through_time(chain, direct, weights, tol=tol, max_hops=max_hops, beside=beside, keep=keep)
