"""Sampling completions with a KV cache and without gradients."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import SoftTokens
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.decoding import decoder_of, graphed
from grade_lightning.rollout.types import Rollout, RolloutSettings

VENTURED = 8  # tokens drawn on CUDA between two looks whether all rows have ended; those of ended rows are thrown away
# (candidate logits [..., k], noise [..., k], hard [...]) -> weights [..., k]
Relaxation = Callable[[Tensor, Tensor, Tensor], Tensor]


def ban_eos(logits: Tensor, eos: Tensor, banned: bool) -> Tensor:
    """Logits with the end-of-sequence tokens [n] at -inf, if banned.  [..., V] -> [..., V]."""
    return logits.index_fill(-1, eos, float("-inf")) if banned else logits


def nucleus(logits: Tensor, top_p: float) -> Tensor:
    """Which of the candidates hold the first ``top_p`` of the probability.  [..., k] sorted, descending -> [..., k] bool.

    The candidate that crosses the threshold belongs to it, so that the most likely one always does (Holtzman et al. 2020).
    """
    if top_p >= 1.0:
        return logits.isfinite()
    probabilities = torch.softmax(logits, dim=-1)
    before = probabilities.cumsum(dim=-1) - probabilities
    return (before < top_p) & logits.isfinite()


@torch.no_grad()
def sample(policy: Policy, prompt: PromptBatch, noise: Tensor, settings: RolloutSettings, *, soft: Relaxation | None = None) -> Rollout:
    """Draw one completion for each prompt by the Gumbel-max rule over the top-k candidates.

    Whatever mode training left the model in, sampling runs in eval mode, with the cache on and without dropout (unless the
    caller activated the policy's).

    Args:
        policy: inside ``policy.reference()`` this samples from the reference.
        prompt: B prompts.
        noise: [B, max_new_tokens, k] standard Gumbel noise aligned with the sorted candidates.
        settings: lengths, candidates, context.
        soft: feed the relaxed sample's embedding forward instead of the hard token's (soft GRADE).

    Returns:
        The rollout; it ends early once every row has met its end of sequence, where weights are shared out every row of all processes.
    """
    policy.eval()
    with policy.merged(in_place=not graphed(policy, settings)):
        return _sample(policy, prompt, noise, settings, soft)


def _ventures(policy: Policy) -> bool:
    """Whether tokens are drawn without looking if a row still wants them: on CUDA each look waits for the device."""
    return policy.device.type == "cuda" and not policy.sharded


def _may_end(policy: Policy, settings: RolloutSettings, t: int) -> bool:
    """Whether to look after token ``t`` if a row is still alive."""
    if not settings.stop_at_eos or t < settings.min_new_tokens:
        return False
    return not _ventures(policy) or (t + 1) % VENTURED == 0


def _sample(policy: Policy, prompt: PromptBatch, noise: Tensor, settings: RolloutSettings, soft: Relaxation | None) -> Rollout:
    noise = noise.to(policy.device)
    embeds = policy.embed(prompt.ids)
    decoder = decoder_of(policy, embeds, prompt.mask, settings, prompt.group)
    hidden = decoder.start(embeds)
    alive = torch.ones(len(prompt), dtype=torch.bool, device=policy.device)
    eos = torch.tensor(policy.eos_ids, device=policy.device)
    columns: list[tuple[Tensor, ...]] = []
    for t in range(settings.max_new_tokens):
        logits = policy.head.next_logits(hidden)
        top = ban_eos(logits, eos, t < settings.min_new_tokens).topk(settings.top_k, dim=-1)
        scaled = top.values / settings.sampling_temperature
        support = nucleus(scaled, settings.top_p)
        scaled = scaled.masked_fill(~support, float("-inf"))
        hard = (scaled + noise[:, t].to(scaled.dtype)).argmax(dim=-1)
        token = top.indices.gather(-1, hard.unsqueeze(-1)).squeeze(-1)
        token = torch.where(alive, token, policy.pad_id)
        weights = () if soft is None else (soft(scaled, noise[:, t], hard),)
        columns.append((token, alive, top.indices, support, hard, *weights))
        was_alive = alive
        if settings.stop_at_eos:
            alive = alive & ~torch.isin(token, eos)
        if t + 1 == settings.max_new_tokens or (_may_end(policy, settings, t) and not policy.goes_on(bool(alive.any()))):
            break
        embeds = policy.embed_soft(SoftTokens(top.indices, *weights, token), was_alive) if weights else policy.embed(token)
        hidden = decoder.step(embeds, was_alive)
    length = len(columns)
    if _ventures(policy) and settings.stop_at_eos and length > settings.min_new_tokens:
        length = int(torch.stack([column[1] for column in columns]).any(dim=1).sum())
    ids, masks, indices, supports, hards, *fed = (torch.stack(column, dim=1) for column in zip(*columns[:length], strict=True))
    temperature = settings.sampling_temperature
    weights_fed = fed[0] if fed else None
    return Rollout(prompt, ids, masks, indices, supports, noise[:, : ids.shape[1]], hards, weights_fed, temperature)
