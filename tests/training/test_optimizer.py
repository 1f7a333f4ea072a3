"""The optimizers of the LoRA weights."""

from __future__ import annotations

import pytest
import torch

from grade_lightning.methods import ReinforceGradient
from grade_lightning.training.module import MethodModule
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade, make_module, one_update

SGD = {"name": "sgd", "lr": 50.0, "max_grad_norm": 1e-4}


def grade_ste(policy) -> MethodModule:
    return make_grade(policy, **SGD)


def reinforce(policy) -> MethodModule:
    return make_module(ReinforceGradient, policy, {}, **SGD)


def flat(policy) -> torch.Tensor:
    return torch.cat([weight.detach().flatten() for weight in policy.trainable().values()])


@pytest.mark.parametrize("make", [grade_ste, reinforce])
def test_sgd_steps_are_normalised_gradients(make, model_folder):
    """Clipped to a norm below the gradient's, a step has the length lr * max_grad_norm and the direction of the gradient."""
    _, policy = make_policy(model_folder)
    batch = make_batch(policy)
    found = gradient(make(policy), batch)
    assert found.norm() > SGD["max_grad_norm"]
    start = flat(policy)
    one_update(make(policy), batch)
    expected = -SGD["lr"] * SGD["max_grad_norm"] * found / found.norm()
    assert torch.allclose(flat(policy) - start, expected, rtol=1e-4, atol=1e-9)


def test_an_unknown_optimizer_is_refused(policy64):
    with pytest.raises(ValueError, match="one of adamw, sgd"):
        make_grade(policy64, name="adam")
