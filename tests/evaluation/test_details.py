"""Measurements beyond the reward, against plain computations with transformers."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch

from grade_lightning.evaluation.diversity import distinct_n, repeated_n
from grade_lightning.evaluation.evaluator import evaluate_batch, summarise
from grade_lightning.rewards.base import Completions
from tests.conftest import make_batch, make_context, make_policy, make_reward


class _Length:
    """A judge that can be checked by eye."""

    def score(self, completions: Completions) -> torch.Tensor:
        return torch.tensor([len(text) / 1000 for text in completions.whole_texts])


@pytest.fixture
def evaluated(model_folder):
    _, policy = make_policy(model_folder)
    reward = make_reward(policy)
    settings = make_context(policy, reward, tokens=12).rollout
    batch = make_batch(policy)
    found = evaluate_batch(policy, reward, batch, settings, seed=3, detailed=True, judges={"classifier": _Length()})
    return policy, reward, batch, found


def test_perplexity_is_that_of_the_reference(evaluated):
    policy, _, batch, found = evaluated
    for row, prompt in enumerate(found):
        opening = batch.ids[row][batch.mask[row]].tolist()
        ids = torch.tensor([[*opening, *prompt.ids]])
        labels = ids.clone()
        labels[:, : len(opening)] = -100
        with torch.no_grad(), policy.peft.disable_adapter():
            loss = policy.peft(input_ids=ids, labels=labels).loss  # transformers' mean over the completion
        assert prompt.details["perplexity"] == pytest.approx(math.exp(float(loss)), rel=1e-5)
    total = sum(p.details["nll"] for p in found) / sum(p.tokens for p in found)
    assert summarise(found)["perplexity"] == pytest.approx(math.exp(total))


def test_reward_of_the_completion_does_not_see_the_prompt(evaluated):
    policy, reward, batch, found = evaluated
    for row, prompt in enumerate(found):
        ids = torch.tensor([prompt.ids])
        one = batch[row : row + 1]
        nothing = dataclasses.replace(one, ids=one.ids[:, :0], mask=one.mask[:, :0])
        alone = reward.scoped("full").score(Completions(nothing, ids, torch.ones_like(ids, dtype=torch.bool), policy.tokenizer))
        assert prompt.details["completion_reward"] == pytest.approx(float(alone), rel=1e-5)
        assert prompt.details["completion_reward"] != pytest.approx(prompt.reward, rel=1e-3)


def test_judge_reads_prompt_and_completion(evaluated):
    _, _, _, found = evaluated
    for prompt in found:
        assert prompt.details["judge"] * 1000 == pytest.approx(len(prompt.prompt) + len(prompt.completion), abs=2)


def test_diversity_by_hand():
    assert distinct_n([[1, 2, 1, 2, 1]], 2) == 2 / 4
    assert repeated_n([1, 2, 1, 2, 1, 2], 4) == pytest.approx(1 / 3)
    assert repeated_n([1, 2, 3], 4) == 0.0


def test_details_do_not_depend_on_the_batch(evaluated):
    policy, reward, batch, found = evaluated
    settings = make_context(policy, reward, tokens=12).rollout
    one = evaluate_batch(policy, reward, batch[1:2], settings, seed=3, detailed=True)
    for name in ("perplexity", "completion_reward", "distinct_2"):
        assert one[0].details[name] == pytest.approx(found[1].details[name], rel=1e-5)
