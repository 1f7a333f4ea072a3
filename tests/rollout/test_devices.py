"""What a device makes different is tried here without it."""

from dataclasses import replace

import pytest
import torch

from grade_lightning.chain.gradient import gradient
from grade_lightning.models.policy import Policy
from grade_lightning.rollout import sampling
from grade_lightning.rollout.noise import training_noise
from grade_lightning.settings.rollout import RolloutSettings
from tests.conftest import make_batch, make_policy, make_reward

SETTINGS = RolloutSettings(24, 2, 24)


@pytest.mark.parametrize("banned", [2, 12])
def test_tokens_ventured_after_all_rows_ended_are_thrown_away(policy64, monkeypatch, banned):
    """The end of sequence is likely, so that all rows end early."""
    settings = replace(SETTINGS, min_new_tokens=banned)
    head = policy64.head.next_logits

    def ending(hidden):
        logits = head(hidden)
        logits[:, list(policy64.eos_ids)] += 6
        return logits

    monkeypatch.setattr(policy64.head, "next_logits", ending)
    batch = make_batch(policy64)
    noise = training_noise(0, 1, len(batch), 24, 24)
    expected = sampling.sample(policy64, batch, noise, settings)
    assert banned < expected.completion_ids.shape[1] < 24
    steps = []
    monkeypatch.setattr(policy64.head, "next_logits", lambda hidden: steps.append(1) or ending(hidden))
    monkeypatch.setattr(sampling, "_ventures", lambda policy: True)
    found = sampling.sample(policy64, batch, noise, settings)
    assert len(steps) >= found.completion_ids.shape[1]
    assert len(steps) % sampling.VENTURED == 0
    for name in ("completion_ids", "mask", "indices", "support", "noise", "hard"):
        assert torch.equal(getattr(found, name), getattr(expected, name)), name


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_one_pass_has_the_gradient_of_two(request, monkeypatch, folder):
    _, policy = make_policy(request.getfixturevalue(folder))
    batch, reward = make_batch(policy), make_reward(policy)
    rollout = sampling.sample(policy, batch, training_noise(0, 1, len(batch), 8, 24), RolloutSettings(8, 2, 24))
    found = []
    for at_once in (False, True):
        monkeypatch.setattr(Policy, "_reads_at_once", lambda policy, tokens, at_once=at_once: at_once and not policy.is_reference)
        taken = gradient(policy, rollout, reward, kl_coef=0.3, tol=1e-12)
        found.append(torch.cat([part.flatten() for part in taken.values()]))
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() < 1e-6 * found[0].norm()
