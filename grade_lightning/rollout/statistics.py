"""Log-probabilities, entropy and KL of recorded tokens, without a [B, T, V] tensor."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from grade_lightning.estimators import exact_kl
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.chunks import time_chunks
from grade_lightning.rollout.types import Rollout

LOGPROBS = ("matched", "full")


class TokenStatistics(NamedTuple):
    """Of B completions, all [B, T]; what stands where the mask is False means nothing.

    Attributes:
        logprobs: of the sampled tokens.
        entropy: of the distribution they were sampled from, in nats.
        kl: exact KL(policy || reference) over the whole vocabulary, in nats.
        log_ratio: log p - log q of the sampled tokens over the whole vocabulary.
    """

    logprobs: Tensor
    entropy: Tensor
    kl: Tensor
    log_ratio: Tensor


def token_statistics(
    policy: Policy, rollout: Rollout, hidden: Tensor, reference_hidden: Tensor, *, logprobs: str = "matched"
) -> TokenStatistics:
    """Statistics of the recorded tokens, with gradients through ``hidden``; logits are computed, used and dropped in chunks of time.

    Args:
        hidden, reference_hidden: [B, T, d] predicting states of policy and reference.
        logprobs: ``matched``: of the distribution that was sampled from, i.e. over the recorded support at the sampling
            temperature; ``full``: over the whole vocabulary at temperature 1, whatever was sampled from.
    """
    if logprobs not in LOGPROBS:
        raise ValueError(f"protocol.logprobs={logprobs} is unknown: use one of {', '.join(LOGPROBS)}")

    def part(own: Tensor, other: Tensor, times: slice) -> tuple[Tensor, ...]:
        return _statistics(policy, rollout, own, other, times=times, logprobs=logprobs)

    chunks = time_chunks(rollout.mask.shape, policy.vocab_size, hidden)
    if len(chunks) == 1:
        return TokenStatistics(*part(hidden, reference_hidden, chunks[0]))
    parts = [checkpoint(part, hidden[:, times], reference_hidden[:, times], times, use_reentrant=False) for times in chunks]
    return TokenStatistics(*(torch.cat(columns, dim=1) for columns in zip(*parts, strict=True)))


def _statistics(policy: Policy, rollout: Rollout, own: Tensor, other: Tensor, *, times: slice, logprobs: str) -> tuple[Tensor, ...]:
    logits, ids = policy.logits(own), rollout.completion_ids[:, times].unsqueeze(-1)
    with torch.no_grad():
        reference_logits = policy.logits(other)
    support, temperature = rollout.support[:, times], rollout.sampling_temperature
    candidates = (logits.gather(-1, rollout.indices[:, times]) / temperature).masked_fill(~support, float("-inf"))
    matched = torch.log_softmax(candidates, dim=-1)
    finite = matched.masked_fill(~support, 0.0)
    entropy = -(finite.exp() * finite * support).sum(dim=-1)
    log_p = torch.log_softmax(logits, dim=-1).gather(-1, ids).squeeze(-1)
    log_q = torch.log_softmax(reference_logits, dim=-1).gather(-1, ids).squeeze(-1)
    chosen = matched.gather(-1, rollout.hard[:, times].unsqueeze(-1)).squeeze(-1) if logprobs == "matched" else log_p
    return chosen, entropy, exact_kl(logits, reference_logits, rollout.mask[:, times]), log_p - log_q
