"""Where a straight-through gradient loses its length: what one swapped token does directly, and what it does through later tokens.

At a position of a completion the token is replaced by another that the policy might have drawn there.  Three changes of the reward:

- predicted: the reward's gradient with respect to the candidate's weight, all that a straight-through estimator without hops knows of it;
- direct: the reward of the same completion with the one token replaced;
- total: the mean reward of completions whose later tokens are drawn anew after the swap, less that after the original token: what a policy
  gradient credits the token with.

Each, times the gradient of the log-probability of what was put there, is an estimate of a gradient: of plain straight-through (no hop), of
the reward with later tokens held fixed, and of the expected reward.  Inner products of different prompts' estimates give the lengths of
their means without bias from noise: direct against predicted is the error of the first-order expansion, total against direct the credit
of later tokens that would have been drawn differently.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch
from torch import Tensor

from grade_lightning.chain.parallel import completions_of, hard_hidden
from grade_lightning.compose import composed, settings_of
from grade_lightning.data.prompts import PromptBatch, collate
from grade_lightning.estimators import gumbel_noise
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Completions, Reward
from grade_lightning.rollout.noise import evaluation_noise, keyed_generator
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout, RolloutSettings
from grade_lightning.setup import inputs, objects
from grade_lightning.study.units import perturb

PROMPTS, CONTINUATIONS, BATCH = 384, 8, 512
PERTURB = 0.02  # standard deviation of lora_B, as in the gradient study: at 0 half of the gradient is 0
KINDS = ("predicted", "direct", "total")
POSITIONS = (0, 4, 8, 12, 16, 20, 24, 28)


def measure(overrides: list[str]) -> dict[str, Any]:
    """Changes of PROMPTS x 8 swaps, summarised over all and by position.

    Args:
        overrides: of a run with completions of 32 tokens; its adapters are at their start, slightly perturbed.
    """
    settings = settings_of(composed([*overrides, "run.dir=unused"]))
    made = objects(inputs(settings), judges=False)
    data = made.data()
    data.setup()
    policy, reward, rollout_settings = made.policy, made.reward, settings.rollout
    perturb(policy, PERTURB)
    batch = collate(data.prompts["policy"][:PROMPTS], policy.pad_id, rows=range(PROMPTS))
    with torch.no_grad():
        rollout = sample(
            policy, batch, evaluation_noise(0, batch.keys, rollout_settings.max_new_tokens, rollout_settings.top_k), rollout_settings
        )
    weights = torch.nn.functional.one_hot(rollout.hard, rollout_settings.top_k).float().requires_grad_()
    scores = reward.score(completions_of(policy, rollout, weights))
    (gradient,) = torch.autograd.grad(scores.sum(), weights)
    rows = []
    for t in POSITIONS:
        rows += _at(policy, reward, rollout, t, scores.detach(), gradient, rollout_settings)
        print(f"position {t}: {len(rows)} swaps so far", flush=True)
    table = {name: np.asarray([row[place] for row in rows]) for place, name in enumerate(("prompt", "t", "k", "weight", *KINDS))}
    products = _products(policy, rollout, table, gradient)
    return {
        "prompts": PROMPTS, "continuations": CONTINUATIONS, "gradients": lengths(products, list(KINDS)), "swaps": summary(table),
        "by_position": {str(t): summary({name: column[table["t"] == t] for name, column in table.items()}) for t in POSITIONS},
    }  # fmt: skip


def _products(policy: Policy, rollout: Rollout, table: dict[str, np.ndarray], gradient: Tensor) -> np.ndarray:
    """[3, 3, P, P] inner products of prompts' estimates, kind by kind; what is predicted is summed over all candidates."""
    weights, found = list(policy.trainable().values()), [[], [], []]
    for row in range(PROMPTS):
        mine = np.flatnonzero(table["prompt"] == row)
        one = Rollout(*(part if part is None or isinstance(part, float) else part[row : row + 1] for part in _fields(rollout)))
        states = hard_hidden(policy, one)[0]
        t, k = (torch.tensor(table[name][mine].astype(int)) for name in ("t", "k"))
        everything = policy.logits(states[t]).gather(-1, one.indices[0, t]).log_softmax(dim=-1)
        logprobs, effects = everything.gather(-1, k[:, None])[:, 0], gradient[row, t]
        effects = effects - effects.gather(-1, one.hard[0, t, None])
        effects = torch.where(torch.isin(one.indices[0, t], torch.tensor(policy.eos_ids)), 0.0, effects)
        for place, kind in enumerate(KINDS):
            credit = torch.tensor(table["weight"][mine] * table[kind][mine], dtype=logprobs.dtype)
            objective = (everything.exp() * effects).sum() if kind == "predicted" else (logprobs * credit).sum()
            gradients = torch.autograd.grad(objective, weights, retain_graph=True)
            found[place].append(torch.cat([part.flatten() for part in gradients]))
    stacked = [torch.stack(rows) for rows in found]
    return np.asarray([[(a @ b.T).double().numpy() for b in stacked] for a in stacked])


def _fields(rollout: Rollout) -> list[Any]:
    return [getattr(rollout, field.name) for field in dataclasses.fields(rollout)]


def lengths(products: np.ndarray, names: list[str], resamples: int = 999) -> dict[str, Any]:
    """Cosines and ratios of lengths of the means, from products of different prompts; 95% bootstrap intervals over prompts."""
    prompts = products.shape[-1]

    def numbers(weight: np.ndarray) -> dict[str, float]:
        pairs = np.outer(weight, weight)
        np.fill_diagonal(pairs, 0.0)
        m = (products * pairs).sum(axis=(-2, -1)) / pairs.sum()
        square = {name: m[i, i] for i, name in enumerate(names)}
        found = {}
        for i, a in enumerate(names):
            for j, b in enumerate(names):
                if i < j:
                    positive = square[a] > 0 and square[b] > 0
                    found[f"cosine {a}, {b}"] = m[i, j] / (square[a] * square[b]) ** 0.5 if positive else np.nan
                    found[f"length {a} / {b}"] = (square[a] / square[b]) ** 0.5 if positive else np.nan
                    found[f"projection of {a} on {b}"] = m[i, j] / square[b] if square[b] > 0 else np.nan
        return found

    rng = np.random.default_rng(0)
    draws = [numbers(rng.multinomial(prompts, np.full(prompts, 1 / prompts)).astype(float)) for _ in range(resamples)]
    value = numbers(np.ones(prompts))
    ends = {name: np.nanquantile([draw[name] for draw in draws], [0.025, 0.975]) for name in value}
    return {name: {"value": float(v), "low": float(ends[name][0]), "high": float(ends[name][1])} for name, v in value.items()}


def _at(  # noqa: PLR0917
    policy: Policy, reward: Reward, rollout: Rollout, t: int, scores: Tensor, gradient: Tensor, settings: RolloutSettings
) -> list[tuple[int, int, int, float, float, float, float]]:  # fmt: skip
    """(prompt, t, candidate, weight, predicted, direct, total) of one swap in each completion that is long enough."""
    lives = rollout.mask & ~torch.isin(rollout.completion_ids, torch.tensor(policy.eos_ids))  # after an end there is nothing to draw anew
    alive = [row for row in range(len(rollout)) if t < lives.shape[1] and bool(lives[row, t])]
    chosen, shares = [], []
    for row in alive:
        generator = keyed_generator("length", rollout.prompt.keys[row], t)
        others = _probabilities(policy, rollout, row, t)
        others[int(rollout.hard[row, t])] = 0.0
        for eos in policy.eos_ids:  # an end has no later tokens
            others[rollout.indices[row, t] == eos] = 0.0
        chosen.append(int(torch.multinomial(others, 1, generator=generator)))
        shares.append(float(others.sum()))  # what the swap stands for: the original token's own effect is 0
    swapped = rollout.completion_ids.clone()
    for row, k in zip(alive, chosen, strict=True):
        swapped[row, t] = rollout.indices[row, t, k]
    plain = completions_of(policy, rollout)
    direct = reward.score(Completions(plain.prompt, swapped, plain.mask, plain.tokenizer)) - scores
    before, after = (_continued(policy, reward, rollout, ids, alive, t, settings) for ids in (rollout.completion_ids, swapped))
    return [
        (row, t, k, share, float(gradient[row, t, k] - gradient[row, t, rollout.hard[row, t]]), float(direct[row]), float(a - b))
        for row, k, share, a, b in zip(alive, chosen, shares, after.tolist(), before.tolist(), strict=True)
    ]


@torch.no_grad()
def _probabilities(policy: Policy, rollout: Rollout, row: int, t: int) -> Tensor:
    """[k] of the recorded candidates at one position."""
    prompt = rollout.prompt.ids[row][rollout.prompt.mask[row]]
    ids = torch.cat([prompt, rollout.completion_ids[row, :t]])[None]
    state = policy.hidden(policy.embed(ids), torch.ones_like(ids, dtype=torch.bool))[:, -1]
    return policy.logits(state)[0, rollout.indices[row, t]].softmax(dim=-1)


@torch.no_grad()
def _continued(  # noqa: PLR0917
    policy: Policy, reward: Reward, rollout: Rollout, ids: Tensor, alive: list[int], t: int, settings: RolloutSettings
) -> Tensor:  # fmt: skip
    """[rows] mean reward over continuations drawn anew after position t; the same noise for every choice of the token there."""
    left = settings.max_new_tokens - t - 1
    repeated = [row for row in alive for _ in range(CONTINUATIONS)]
    noise = torch.cat([
        gumbel_noise((CONTINUATIONS, left, settings.top_k), generator=keyed_generator("length noise", rollout.prompt.keys[row], t))
        for row in alive
    ])  # fmt: skip
    own = dataclasses.replace(settings, max_new_tokens=left, min_new_tokens=max(0, settings.min_new_tokens - t - 1))
    values = []
    for start in range(0, len(repeated), BATCH):
        rows = torch.tensor(repeated[start : start + BATCH])
        prompt = rollout.prompt
        head, mask = (
            torch.cat([prompt.ids[rows], ids[rows, : t + 1]], dim=1),
            torch.nn.functional.pad(prompt.mask[rows], (0, t + 1), value=True),
        )
        keys = tuple(prompt.keys[row] for row in rows)
        longer = PromptBatch(head, mask, keys, prompt.labels[rows], prompt.rows[rows])
        drawn = sample(policy, longer, noise[start : start + BATCH], own)
        values.append(reward.score(completions_of(policy, drawn)))  # of prompt and completion together
    return torch.cat(values).view(len(alive), CONTINUATIONS).mean(dim=1)


def summary(table: dict[str, np.ndarray], resamples: int = 999) -> dict[str, Any]:
    """Slopes through 0 on the predicted change, their ratio, and correlations, with 95% bootstrap intervals over prompts."""
    names, place = np.unique(table["prompt"], return_inverse=True)

    def numbers(weight: np.ndarray) -> dict[str, float]:
        x, direct, total = table["predicted"], table["direct"], table["total"]
        square = (weight * x**2).sum()
        slopes = {
            "direct_over_predicted": (weight * x * direct).sum() / square,
            "total_over_predicted": (weight * x * total).sum() / square,
        }
        return {
            **slopes, "total_over_direct": slopes["total_over_predicted"] / slopes["direct_over_predicted"],
            "total_on_direct": (weight * direct * total).sum() / (weight * direct**2).sum(),
        }  # fmt: skip

    rng = np.random.default_rng(0)
    draws = [numbers(rng.multinomial(len(names), np.full(len(names), 1 / len(names))).astype(float)[place]) for _ in range(resamples)]
    value = numbers(np.ones(len(place)))
    ends = {name: np.quantile([draw[name] for draw in draws], [0.025, 0.975]) for name in value}
    return {"swaps": len(place), **{n: {"value": float(v), "low": float(ends[n][0]), "high": float(ends[n][1])} for n, v in value.items()}}
