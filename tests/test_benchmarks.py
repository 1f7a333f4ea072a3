"""The benchmark compares equal work: the baseline's gradient is the engine's."""

import pytest
import torch

from experiments.benchmarks.recompute import recompute_backward
from grade_lightning.rollout.noise import training_noise
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade


@pytest.mark.parametrize("straight_through", [True, False])
def test_prefix_recomputation_gives_the_same_gradient(model_folder, straight_through):
    _, policy = make_policy(model_folder, checkpointing=True)
    method = make_grade(policy, tau=1.5, straight_through=straight_through, kl_coef=0.3, early=8)
    batch, settings = make_batch(policy), method.shared.rollout
    expected = gradient(method, batch)
    for weight in policy.trainable().values():
        weight.grad = None
    noise = training_noise(0, 1, 4, settings.max_new_tokens, settings.top_k)
    recompute_backward(policy, method.reward, batch, noise, settings, tau=1.5, kl_coef=0.3, straight_through=straight_through)
    found = torch.cat([weight.grad.flatten() for weight in policy.trainable().values()])
    assert (found - expected).norm() < 2e-6 * expected.norm()
