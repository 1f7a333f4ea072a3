"""The baseline: relaxed tokens with the whole prefix computed again for each of them, under activation checkpointing.

What the paper's released code does, written for this comparison, and kinder to it: sparse tokens, one shared base, one pass for
reward and reference.
"""

from __future__ import annotations

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import SoftTokens, exact_kl, gumbel_softmax_topk
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Completions
from grade_lightning.rewards.classifier import ClassifierReward
from grade_lightning.rollout.sampling import ban_eos
from grade_lightning.rollout.types import RolloutSettings


def recompute_backward(
    policy: Policy, reward: ClassifierReward, batch: PromptBatch, noise: Tensor, settings: RolloutSettings, *, tau: float, kl_coef: float,
    straight_through: bool = True,
) -> None:  # fmt: skip
    """Add the gradient of -mean score + beta KL per token.  The policy must have been made with ``checkpointing``."""
    noise = noise.to(policy.device)
    embeds, mask = policy.embed(batch.ids), batch.mask
    width, alive = batch.ids.shape[1], batch.mask.new_ones(len(batch))
    eos = torch.tensor(policy.eos_ids, device=policy.device)
    tokens: list[SoftTokens] = []
    all_logits = []
    for t in range(settings.max_new_tokens):
        logits = policy.logits(policy.hidden(embeds, mask)[:, -1])
        allowed = ban_eos(logits, eos, t < settings.min_new_tokens)
        token = gumbel_softmax_topk(allowed, tau, settings.top_k, noise=noise[:, t], straight_through=straight_through)
        embeds = torch.cat([embeds, policy.embed_soft(token, alive).unsqueeze(1)], dim=1)
        mask = torch.cat([mask, alive.unsqueeze(1)], dim=1)
        tokens.append(token)
        all_logits.append(logits)
    logits, written = torch.stack(all_logits, dim=1), embeds[:, width:]
    soft = SoftTokens(*(torch.stack(parts, dim=1) for parts in zip(*tokens, strict=True)))
    with policy.reference():
        # Differentiated in here: layers of the reference that are computed again must find the adapters off.
        own, leaf = logits.detach().requires_grad_(), written.detach().requires_grad_()
        hidden = policy.hidden(torch.cat([policy.embed(batch.ids), leaf], dim=1), mask)
        scores = reward.score(Completions(batch, soft.token_ids, mask[:, width:], policy.tokenizer, soft, hidden))
        kl = exact_kl(own, policy.logits(hidden[:, width - 1 : -1]), mask[:, width:])
        loss = -scores.mean() + kl_coef * kl.sum() / mask[:, width:].sum()
        gradients = torch.autograd.grad(loss, (own, leaf))
    torch.autograd.backward((logits, written), gradients, inputs=list(policy.trainable().values()))
