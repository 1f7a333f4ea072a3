"""The optimizers of the LoRA weights."""

from __future__ import annotations

import pytest
import torch

from grade_lightning.methods import REINFORCE
from grade_lightning.methods.base import Method, Totals
from grade_lightning.methods.meter import Meter
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade, shared_of

SGD = {"optimizer": "sgd", "lr": 50.0, "max_grad_norm": 1e-4}


def grade_ste(policy) -> Method:
    return make_grade(policy, **SGD)


def reinforce(policy) -> Method:
    return REINFORCE(shared_of(policy, **SGD))


def flat(policy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.trainable().values()])


@pytest.mark.parametrize("make", [grade_ste, reinforce])
def test_sgd_steps_are_normalised_gradients(make, model_folder):
    """Clipped to a norm below the gradient's, a step has the length lr * max_grad_norm and the direction of the gradient."""
    _, policy = make_policy(model_folder)
    batch = make_batch(policy)
    found = gradient(make(policy), batch)
    assert found.norm() > SGD["max_grad_norm"]
    method, start = make(policy), flat(policy)
    optimizer = method.configure_optimizers()
    method.optimizers = lambda: optimizer
    rollouts = method.sample_effective_batch(batch)
    method.update(rollouts, Totals(len(batch), sum(rollout.tokens for rollout in rollouts)), Meter(), batch.step)
    expected = -SGD["lr"] * SGD["max_grad_norm"] * found / found.norm()
    assert torch.allclose(flat(policy) - start, expected, rtol=1e-4, atol=1e-9)


def test_an_unknown_optimizer_is_refused(policy64):
    with pytest.raises(ValueError, match=r"optimizer.name=adam is unknown: use one of adamw, sgd"):
        shared_of(policy64, optimizer="adam").check()
