"""Does the gradient through another vocabulary say what a swapped token does to the score?

One token of a completion is replaced by another that the policy might have drawn there; the text is scored again.  Predicted change: the
gradient with respect to the candidate's weight.  By the size of the group of tokens, of both vocabularies, in which the token stands.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from grade_lightning.chain.parallel import completions_of
from grade_lightning.compose import composed, settings_of
from grade_lightning.data.prompts import collate
from grade_lightning.rollout.noise import evaluation_noise, keyed_generator
from grade_lightning.rollout.sampling import sample
from grade_lightning.setup import Objects, inputs, objects

PROMPTS, SWAPS = 256, 8


def measure(overrides: list[str]) -> dict[str, Any]:
    """Predicted and true changes of PROMPTS x SWAPS swaps, summarised.

    Args:
        overrides: of a run whose reward is a sequence classifier.
    """
    settings = settings_of(composed([*overrides, "run.dir=unused"]))
    made = objects(inputs(settings), judges=False)
    data = made.data()
    data.setup()
    rows = [row for start in range(0, PROMPTS, 64) for row in _of_batch(made, data.prompts["policy"][start : start + 64], start)]
    return {"prompts": PROMPTS, "swaps": SWAPS, "all": _summary(rows), "by_group": _by_group(rows)}


def _of_batch(made: Objects, prompts: Any, start: int) -> list[tuple[int, int, int, float, float]]:
    """(prompt, policy tokens in the group, reward tokens in the group, predicted, true) of each swap."""
    policy, reward, settings = made.policy, made.reward, made.inputs.settings.rollout
    batch = collate(prompts, policy.pad_id, rows=range(start, start + len(prompts)))
    with torch.no_grad():
        rollout = sample(policy, batch, evaluation_noise(0, batch.keys, settings.max_new_tokens, settings.top_k), settings)
    weights = torch.nn.functional.one_hot(rollout.hard, settings.top_k).float().requires_grad_()
    completions = completions_of(policy, rollout, weights)
    scores = reward.score(completions)
    (gradient,) = torch.autograd.grad(scores.sum(), weights)
    groups = reward.groups(completions)  # type: ignore[attr-defined]
    found = []
    for number in range(SWAPS):
        ids, chosen = rollout.completion_ids.clone(), []
        for row in range(len(ids)):
            generator = keyed_generator("swaps", number, batch.keys[row])
            t = int(torch.randint(int(rollout.mask[row].sum()), (1,), generator=generator))
            # Candidates come in order of probability: one of the most likely sixteen others.
            others = [k for k in range(17) if k != int(rollout.hard[row, t]) and int(rollout.indices[row, t, k]) not in policy.eos_ids][:16]
            k = others[int(torch.randint(len(others), (1,), generator=generator))]
            ids[row, t] = rollout.indices[row, t, k]
            chosen.append((t, k))
        swapped = completions_of(policy, rollout)
        changed = reward.score(type(swapped)(swapped.prompt, ids, swapped.mask, swapped.tokenizer)) - scores.detach()
        for row, (t, k) in enumerate(chosen):
            sizes = next(((len(own), len(other)) for own, other in groups[row] if t in own), (0, 0))
            found.append((start + row, *sizes, float(gradient[row, t, k]), float(changed[row])))
    return found


def _summary(rows: list[tuple[int, int, int, float, float]], resamples: int = 999) -> dict[str, Any]:
    """Slope through 0 of true on predicted changes, correlation and share of equal signs, with 95% intervals over prompts."""
    prompt, predicted, true = (np.asarray([row[place] for row in rows]) for place in (0, 3, 4))

    def numbers(weight: np.ndarray) -> list[float]:
        x, y = predicted - np.average(predicted, weights=weight), true - np.average(true, weights=weight)
        moved = weight * (np.abs(true) > 1e-4)
        return [
            float((weight * predicted * true).sum() / (weight * predicted**2).sum()),
            float((weight * x * y).sum() / np.sqrt((weight * x**2).sum() * (weight * y**2).sum())),
            float((moved * (np.sign(predicted) == np.sign(true))).sum() / moved.sum()),
        ]

    rng, names = np.random.default_rng(0), np.unique(prompt)
    drawn = []
    for _ in range(resamples):
        counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)))
        drawn.append(numbers(counts[np.searchsorted(names, prompt)].astype(float)))
    value, ends = numbers(np.ones(len(rows))), np.quantile(np.asarray(drawn), [0.025, 0.975], axis=0)
    labels = ("slope", "correlation", "same_sign")
    return {"swaps": len(rows), **{name: {"value": value[i], "low": ends[0, i], "high": ends[1, i]} for i, name in enumerate(labels)}}


def _by_group(rows: list[tuple[int, int, int, float, float]]) -> dict[str, Any]:
    """Summaries by the tokens of a group, policy's : reward's; rare ones together."""
    kinds: dict[str, list[Any]] = {}
    for row in rows:
        own, other = row[1], row[2]
        kind = "1 : 1" if (own, other) == (1, 1) else "1 : several" if own == 1 else "several : 1" if other == 1 else "several : several"
        kinds.setdefault(kind, []).append(row)
    return {kind: _summary(found) for kind, found in sorted(kinds.items()) if len(found) >= 20}
