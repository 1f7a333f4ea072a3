"""Log-probabilities, entropy and KL of recorded tokens, without a [B, T, V] tensor."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from grade_lightning.chain.candidates import candidate_logits
from grade_lightning.chain.chunks import token_chunks
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.types import Rollout

LOGPROBS = ("matched", "full")


class TokenStatistics(NamedTuple):
    """Statistics of the tokens of B completions, 0 where the mask is False.

    Attributes:
        logprobs: [B, T] log-probabilities of the sampled tokens.
        entropy: [B, T] entropy of the distribution they were sampled from, in nats.
        kl: [B, T] exact KL(policy || reference) over the whole vocabulary, in nats.
        log_ratio: [B, T] log p - log q of the sampled tokens over the whole vocabulary.
    """

    logprobs: Float[Tensor, "B T"]
    entropy: Float[Tensor, "B T"]
    kl: Float[Tensor, "B T"]
    log_ratio: Float[Tensor, "B T"]


def token_statistics(
    policy: Policy,
    rollout: Rollout,
    hidden: Float[Tensor, "B T d"],
    reference_hidden: Float[Tensor, "B T d"],
    *,
    logprobs: str = "matched",
) -> TokenStatistics:
    """Statistics of the recorded tokens, with gradients through ``hidden``; logits are computed, used and dropped in chunks of tokens.

    Args:
        policy: gives the output head.
        rollout: the recorded tokens.
        hidden: [B, T, d] predicting states of the policy.
        reference_hidden: [B, T, d] predicting states of the reference.
        logprobs: ``matched``: of the distribution that was sampled from, i.e. over the recorded support at the sampling
            temperature; ``full``: over the whole vocabulary at temperature 1, whatever was sampled from.
    """
    if logprobs not in LOGPROBS:
        raise ValueError(f"protocol.logprobs={logprobs} is unknown: use one of {', '.join(LOGPROBS)}")

    mask = rollout.mask
    real = _Tokens(
        rollout.completion_ids[mask], rollout.indices[mask], rollout.support[mask], rollout.hard[mask], rollout.sampling_temperature
    )
    own, other = hidden[mask], reference_hidden[mask].detach()
    chunks = token_chunks(own, policy.vocab_size)
    if len(chunks) == 1:
        columns = _statistics(policy, own, other, real, logprobs)
    else:
        parts = [checkpoint(_statistics, policy, own[rows], other[rows], real.take(rows), logprobs, use_reentrant=False) for rows in chunks]
        columns = tuple(torch.cat(column) for column in zip(*parts, strict=True))
    return TokenStatistics(*(torch.zeros_like(mask, dtype=column.dtype).masked_scatter(mask, column) for column in columns))


def sampled_from(
    candidates: Float[Tensor, "*tokens k"], support: Bool[Tensor, "*tokens k"], hard: Int[Tensor, "*tokens"]
) -> tuple[Float[Tensor, "*tokens"], Float[Tensor, "*tokens"]]:
    """Log-probability of each token under the distribution that it was drawn from, and that distribution's entropy in nats.

    Args:
        candidates: [..., k] logits as tokens were drawn from them, -inf outside of ``support`` [..., k].
        hard: [...] position of the token among its candidates.
    """
    logprobs = torch.log_softmax(candidates, dim=-1)
    finite = logprobs.masked_fill(~support, 0.0)
    entropy = -(finite.exp() * finite * support).sum(dim=-1)
    return logprobs.gather(-1, hard.unsqueeze(-1)).squeeze(-1), entropy


def statistics_beside(
    policy: Policy, rollout: Rollout, hidden: Float[Tensor, "B T d"], kl: Float[Tensor, "B T"], kl_slope: Float[Tensor, "B T d"]
) -> TokenStatistics:  # fmt: skip
    """Statistics of the recorded tokens where another pass has found their exact KL: nothing of the vocabulary's size is made.

    Args:
        policy: gives the output head.
        rollout: the recorded tokens.
        hidden: [B, T, d] predicting states of the policy.
        kl: [B, T] at these states.
        kl_slope: [B, T, d] its gradient there.

    Returns:
        Log-probabilities of the distribution that was sampled from (``matched``), its entropy, and the KL, to first order about ``hidden``:
        value and gradient are exact.  ``log_ratio``, which needs the whole vocabulary, is nan.
    """
    candidates = rollout.on_support(candidate_logits(policy, hidden, rollout.indices))
    chosen, entropy = sampled_from(candidates, rollout.support, rollout.hard)
    moved = kl + ((hidden - hidden.detach()) * kl_slope).sum(dim=-1)
    logprobs, entropy, moved = (torch.where(rollout.mask, x, 0.0) for x in (chosen, entropy, moved))
    return TokenStatistics(logprobs, entropy, moved, torch.full_like(kl, torch.nan))


@torch.no_grad()
def surprisal(policy: Policy, rollout: Rollout, hidden: Float[Tensor, "B T d"]) -> Float[Tensor, "B T"]:
    """-log q of the recorded tokens over the whole vocabulary at temperature 1, in nats.

    Args:
        policy: gives the output head.
        rollout: the recorded tokens.
        hidden: [B, T, d] predicting states of the model q, policy or reference: both share the output head.

    Returns:
        [B, T], 0 where the mask is False.
    """
    mask = rollout.mask
    states, ids = hidden[mask], rollout.completion_ids[mask]
    parts = [F.cross_entropy(policy.logits(states[rows]), ids[rows], reduction="none") for rows in token_chunks(states, policy.vocab_size)]
    return torch.zeros(mask.shape, dtype=parts[0].dtype, device=mask.device).masked_scatter(mask, torch.cat(parts))


class _Tokens(NamedTuple):
    """N real tokens of a rollout: ids [N], candidates and their support [N, k], position among them [N]."""

    ids: Int[Tensor, " N"]
    indices: Int[Tensor, "N k"]
    support: Bool[Tensor, "N k"]
    hard: Int[Tensor, " N"]
    temperature: float

    def take(self, rows: slice) -> _Tokens:
        return _Tokens(self.ids[rows], self.indices[rows], self.support[rows], self.hard[rows], self.temperature)


class _Read(torch.autograd.Function):
    """logits [N, V], the reference's [N, V], indices [N, k], ids [N, 1] -> logits at the indices [N, k], KL [N], and the log-probabilities
    of the ids under both, [N] and [N].

    Differentiable in the policy's logits l: with log-probabilities log p and log q, dKL/dl = p (log p - log q - KL) and
    d log p_i / dl = e_i - p.  Autograd makes three times as many passes over [N, V].
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, reference_logits: Tensor, indices: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        log_p, log_q = torch.log_softmax(logits, dim=-1), torch.log_softmax(reference_logits, dim=-1)
        own_p, own_q = (each.gather(-1, ids).squeeze(-1) for each in (log_p, log_q))
        p, ratio = log_p.exp(), torch.sub(log_p, log_q, out=log_q)
        kl = torch.linalg.vecdot(p, ratio)
        ctx.save_for_backward(p, ratio, kl, indices, ids)
        ctx.mark_non_differentiable(own_q)
        return logits.gather(-1, indices), kl, own_p, own_q

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        p, ratio, kl, indices, ids = ctx.saved_tensors
        of_candidates, of_kl, of_logprob = gradients[0], *(gradient.unsqueeze(-1) for gradient in gradients[1:3])
        found = (ratio - kl.unsqueeze(-1)).mul_(of_kl).sub_(of_logprob).mul_(p)
        return found.scatter_add_(-1, ids, of_logprob).scatter_add_(-1, indices, of_candidates), None, None, None


def _statistics(
    policy: Policy, own: Float[Tensor, "N d"], other: Float[Tensor, "N d"], tokens: _Tokens, logprobs: str
) -> tuple[Float[Tensor, " N"], ...]:
    logits, ids = policy.logits(own), tokens.ids.unsqueeze(-1)
    with torch.no_grad():
        reference_logits = policy.logits(other)
    at_indices, kl, own_p, own_q = _Read.apply(logits, reference_logits, tokens.indices, ids)  # type: ignore[no-untyped-call]
    candidates = (at_indices / tokens.temperature).masked_fill(~tokens.support, float("-inf"))
    matched, entropy = sampled_from(candidates, tokens.support, tokens.hard)
    return matched if logprobs == "matched" else own_p, entropy, kl, own_p - own_q
