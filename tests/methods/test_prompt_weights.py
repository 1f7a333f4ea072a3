"""Straight-through with GRPO's weights of prompts."""

from __future__ import annotations

import pytest
import torch

from grade_lightning.chain.parallel import read_frozen
from grade_lightning.estimators import grpo_advantages, rloo_advantages, spread_weights
from grade_lightning.methods import GradeGradient
from grade_lightning.methods.base import Totals
from grade_lightning.methods.gradients import take_gradient
from grade_lightning.methods.meter import Meter
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_module, rollouts_of
from tests.methods.suite import MethodSuite

GROUP = 3


def make(policy, **options):
    own = {name: options.pop(name) for name in ("prompt_weights", "reward_gain") if name in options}
    settings = {"temperature": lambda step: 1.0, "completions_per_prompt": GROUP, "tol": 1e-12, "prompt_weights": "spread", **own}
    return make_module(GradeGradient, policy, settings, **options)


class TestPromptWeights(MethodSuite):
    task_batch = 8

    def make(self, policy, **options):
        return make(policy, **options)


def test_weights_are_those_of_grpo_at_the_length_of_rloo():
    scores = torch.rand(6, 4, dtype=torch.float64)
    weights, plain, grpo = spread_weights(scores), rloo_advantages(scores), grpo_advantages(scores)
    weighted = weights.unsqueeze(1) * plain
    assert torch.allclose(weighted / weighted.norm(), grpo / grpo.norm())
    assert float((weighted * plain).sum()) == pytest.approx(float((plain * plain).sum()))


def test_rewards_that_say_nothing_weigh_prompts_alike():
    assert spread_weights(torch.full((3, 2), 0.3)).tolist() == [1.0] * 3
    one = spread_weights(torch.tensor([[0.5, 0.5], [0.2, 0.6]]))
    assert one.isfinite().all()
    assert one[1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("accumulation", [1, 2, 4])
def test_gradient_is_the_weighted_sum_of_prompts_and_the_kl_is_not_weighted(policy64, accumulation):
    """Each prompt's reward gradient by itself, weighed by the spread of its own scores; 4 prompts of 3 completions."""
    batch, beta, gain = make_batch(policy64), 0.3, 2.0
    found = gradient(make(policy64, kl_coef=beta, reward_gain=gain, grad_accumulation=accumulation), batch)
    equal = make(policy64, kl_coef=0.0, prompt_weights="equal", grad_accumulation=len(batch))
    rollouts = rollouts_of(equal, batch)  # of one prompt each
    scores = torch.stack([read_frozen(policy64, equal.method.reward, rollout).scored.scores for rollout in rollouts])
    spread = scores.std(dim=1)
    weights = 1 / (spread + 1e-4)
    weights *= spread.square().sum() / (weights * spread.square()).sum()
    whole = gradient(make(policy64, kl_coef=beta, prompt_weights="equal"), batch)
    reward = gradient(equal, batch)
    parts = []
    for rollout in rollouts:
        equal.method.accumulate([rollout], Totals(len(rollouts) * GROUP, rollout.tokens), Meter(), 1)
        parts.append(take_gradient(policy64.trainable().values()))
    assert (torch.stack(parts).sum(dim=0) - reward).norm() < 1e-5 * reward.norm()
    expected = gain * sum(w * part for w, part in zip(weights, parts, strict=True)) + whole - reward
    assert float(weights.max() / weights.min()) > 1.1
    assert (found - expected).norm() < 1e-5 * expected.norm()


def test_single_prompts_keep_their_gradient(policy64):
    """What a gradient study takes: with one prompt there is nothing to weigh it against."""
    batch = make_batch(policy64)[:1]
    found, plain = (gradient(make(policy64, prompt_weights=which), batch) for which in ("spread", "equal"))
    assert (found - plain).norm() < 1e-6 * plain.norm()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"completions_per_prompt": 1}, "completions_per_prompt"),
        ({"completions_per_prompt": 2, "straight_through": False}, "hard tokens"),
        ({"completions_per_prompt": 2, "reward_gain": "calibrated"}, "prompt_weights=equal"),
    ],
)
def test_what_cannot_be_weighed_is_refused(model_folder, options, said):
    _, policy = make_policy(model_folder)
    with pytest.raises(ValueError, match=said):
        make_module(GradeGradient, policy, {"temperature": lambda step: 1.0, "prompt_weights": "spread", **options})
