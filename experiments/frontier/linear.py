"""How much of a policy gradient's noise the reward's slopes know: how much of its variance first-order effects explain.

RLOO stays unbiased when a function f of a completion is taken from its reward and E[f]'s gradient is added.  Its noise then falls by about
the share of the reward's variance between completions of one prompt that f explains, less where the gradient that is added is noisy too.
The f of a straight-through gradient is the sum over tokens of what each adds to a linear reward, less what the policy's other choices there
would have added on average,

    f(y) = sum_t (e(y_t) - sum_v pi(v | y_<t) e(v)) . s_t,

with e the embedding and s_t the reward's slope in the embedding of token t.  Without bias s must not depend on y: it is the mean over other
completions, of the same prompt or of all, at the same position or over all of them.  The completion's own slopes are measured beside.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from experiments.frontier.length import PERTURB
from grade_lightning.chain.candidates import candidate_logits
from grade_lightning.chain.parallel import completions_of, hard_hidden
from grade_lightning.compose import composed, settings_of
from grade_lightning.data.prompts import PromptBatch, collate
from grade_lightning.estimators import gumbel_noise
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward
from grade_lightning.rollout.noise import keyed_generator
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import RolloutSettings
from grade_lightning.setup import inputs, objects
from grade_lightning.study.units import perturb

PROMPTS, GROUP, BATCH = 96, 4, 32
SLOPES = ("own", "of the prompt's others", "of all others, by position", "of all others, one for all positions")


def measure(overrides: list[str], adapter: Path | None = None) -> dict[str, dict[str, float]]:
    """Share explained and best factor of each f, and of all of them together the reward's standard deviation within prompts.

    Args:
        overrides: of a run.
        adapter: file with a policy's weights; None = the initial policy, slightly perturbed.
    """
    settings = settings_of(composed([*overrides, "run.dir=unused"]))
    made = objects(inputs(settings), judges=False)
    data = made.data()
    data.setup()
    if adapter is None:
        perturb(made.policy, PERTURB)
    else:
        made.policy.load_adapter(adapter)
    parts = []
    for start in range(0, PROMPTS, BATCH // GROUP):
        chosen = [prompt for prompt in data.prompts["policy"][start : start + BATCH // GROUP] for _ in range(GROUP)]
        batch = collate(chosen, made.policy.pad_id, rows=range(GROUP * start, GROUP * start + len(chosen)))
        parts.append(_read(made.policy, made.reward, batch, settings.rollout))
    rewards, slopes, offsets, mask = (torch.cat(part) for part in zip(*parts, strict=True))
    return explained(rewards, slopes, offsets, mask)


def _read(policy: Policy, reward: Reward, batch: PromptBatch, settings: RolloutSettings) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Completions' rewards [B], the reward's slopes [B, T, d], tokens' embeddings less their expectations [B, T, d], mask [B, T]."""
    shape = len(batch), settings.max_new_tokens, settings.top_k
    noise = gumbel_noise(shape, generator=keyed_generator("linear", int(batch.rows[0])))
    with torch.no_grad():
        rollout = sample(policy, batch, noise, settings)
        logits = candidate_logits(policy, hard_hidden(policy, rollout), rollout.indices)
        chances = torch.softmax(rollout.on_support(logits), dim=-1)
        expected = torch.einsum("btk,btkd->btd", chances, policy.embed(rollout.indices))
        own = policy.embed(rollout.completion_ids)
    with policy.reference():
        fed = own.clone().requires_grad_()
        before, states = policy.states(batch.ids, batch.mask, fed, rollout.mask)
        scores = reward.score(completions_of(policy, rollout).with_states(torch.cat([before, states], dim=1)))
        (slopes,) = torch.autograd.grad(scores.sum(), fed)
    mask, left = rollout.mask, settings.max_new_tokens - rollout.mask.shape[1]  # sampling ends where all rows have
    slopes, offsets = ((part * mask.unsqueeze(-1)) for part in (slopes, own - expected))
    longer = [torch.nn.functional.pad(part, (0, 0, 0, left)) for part in (slopes, offsets)]
    return scores.detach(), longer[0], longer[1], torch.nn.functional.pad(mask, (0, left))


def explained(rewards: Tensor, slopes: Tensor, offsets: Tensor, mask: Tensor, group: int = GROUP) -> dict[str, dict[str, float]]:
    """Share of the variance within groups that each f explains at its best factor, fitted to these very data, and as it is.

    Args:
        rewards: [B], a prompt's completions in a row.
        slopes, offsets: [B, T, d], 0 where the mask is False.
        mask: [B, T].
        group: completions of a prompt.
    """
    counts = mask.to(slopes.dtype).unsqueeze(-1)
    over_positions = (slopes.sum(dim=1, keepdim=True), counts.sum(dim=1, keepdim=True))
    used = (
        slopes, _of_others(slopes, counts, group), _of_others(slopes, counts, len(slopes)), _of_others(*over_positions, len(slopes)),
    )  # fmt: skip
    target, found = _within(rewards, group), {}
    for name, chosen in zip(SLOPES, used, strict=True):
        effect = _within((offsets * chosen).sum(dim=(1, 2)), group)
        product, square = float(effect @ target), float(effect @ effect)
        whole = float(target @ target)
        found[name] = {"share": product**2 / (square * whole), "factor": product / square, "as it is": (2 * product - square) / whole}
    return {**found, "reward": {"deviation": float(target.square().sum() / (len(target) * (1 - 1 / group))) ** 0.5}}


def _of_others(sums: Tensor, counts: Tensor, block: int) -> Tensor:
    """Mean over the other rows of a block of rows.  [B, T, d], [B, T, 1] -> [B, T, d]."""
    total, number = (part.view(-1, block, *part.shape[1:]) for part in (sums, counts))
    left = total.sum(dim=1, keepdim=True) - total
    return (left / (number.sum(dim=1, keepdim=True) - number).clamp_min(1)).flatten(0, 1)


def _within(values: Tensor, group: int) -> Tensor:
    """Less the mean of its group.  [B] -> [B]."""
    grouped = values.view(-1, group)
    return (grouped - grouped.mean(dim=1, keepdim=True)).flatten()
