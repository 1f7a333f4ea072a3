"""Completions of one prompt read it once: the same tokens and the same gradients as from rows that do not know of each other."""

from dataclasses import replace

import pytest
import torch

from grade_lightning.methods import GradeGradient, GRPOGradient, RLOOGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import sample
from tests.conftest import make_batch, make_context, make_policy
from tests.methods.harness import totals_of

TEXTS = ["a warm film", "i left after ten minutes of this dull thing"]


def both(policy):
    shared = make_batch(policy, TEXTS).repeat(3)
    return shared, replace(shared, group=1)


def gradient_of(method, policy, batch):
    noise = training_noise(0, 1, len(batch), 8, 24)
    rollout = sample(policy, batch, noise, method.context.rollout)
    for weight in policy.trainable().values():
        weight.grad = None
    method.accumulate([rollout], totals_of([rollout]), Meter(policy.device), 1)
    return rollout, torch.cat([weight.grad.flatten() for weight in policy.trainable().values()])


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
@pytest.mark.parametrize("kind", [RLOOGradient, GRPOGradient, GradeGradient])
def test_tokens_and_gradients(request, folder, kind):
    _, policy = make_policy(request.getfixturevalue(folder))
    options = {"temperature": lambda step: 1.0, "tol": 1e-12} if kind is GradeGradient else {"completions_per_prompt": 3}
    method = kind(make_context(policy), **options)
    (first, found), (second, expected) = (gradient_of(method, policy, batch) for batch in both(policy))
    assert torch.equal(first.completion_ids, second.completion_ids)
    assert expected.norm() > 0
    assert (found - expected).norm() < 1e-6 * expected.norm()


def test_prompts_are_read_once(model_folder, monkeypatch):
    _, policy = make_policy(model_folder)
    read, hidden = [], policy.hidden

    def watched(embeds, *args, **kwargs):
        read.append(tuple(embeds.shape[:2]))
        return hidden(embeds, *args, **kwargs)

    monkeypatch.setattr(policy, "hidden", watched)
    method, (shared, _) = RLOOGradient(make_context(policy), completions_per_prompt=3), both(policy)
    gradient_of(method, policy, shared)
    width = shared.ids.shape[1]
    assert read.count((2, width)) == 3  # sampling, frozen models, policy
    assert not [shape for shape in read if shape[0] == 6 and shape[1] >= width]


def test_dropout_is_of_rows(model_folder):
    """Rows of one prompt drop different inputs."""
    _, policy = make_policy(model_folder, dropout=0.5)
    method = RLOOGradient(make_context(policy), completions_per_prompt=3)
    (_, found), (_, expected) = (gradient_of(method, policy, batch) for batch in both(policy))
    assert (found - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize(("rows", "group"), [(slice(0, 3), 3), (slice(3, 6), 3), (slice(0, 2), 1), (slice(1, 4), 1), (slice(0, 6), 3)])
def test_parts_know_whether_they_are_whole_groups(model_folder, rows, group):
    _, policy = make_policy(model_folder)
    assert both(policy)[0][rows].group == group
