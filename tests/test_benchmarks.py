"""The benchmark compares equal work: the baseline's gradient is the engine's."""

import pytest
import torch

from experiments.benchmarks.floors import floor, weights
from experiments.benchmarks.recompute import recompute_backward
from experiments.benchmarks.run import settled
from experiments.benchmarks.setting import QWEN3_4B, Setting
from experiments.benchmarks.turns import Worker, ratio, take_turns
from grade_lightning.rollout.noise import training_noise
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade


@pytest.mark.parametrize("straight_through", [True, False])
def test_prefix_recomputation_gives_the_same_gradient(model_folder, straight_through):
    _, policy = make_policy(model_folder, checkpointing=True)
    method = make_grade(policy, tau=1.5, straight_through=straight_through, kl_coef=0.3, early=8)
    batch, settings = make_batch(policy), method.context.rollout
    expected = gradient(method, batch)
    for weight in policy.trainable().values():
        weight.grad = None
    noise = training_noise(0, 1, 4, settings.max_new_tokens, settings.top_k)
    recompute_backward(policy, method.context.reward, batch, noise, settings, tau=1.5, kl_coef=0.3, straight_through=straight_through)
    found = torch.cat([weight.grad.flatten() for weight in policy.trainable().values()])
    assert (found - expected).norm() < 2e-6 * expected.norm()


def rounds(*seconds: float) -> list[dict[str, float]]:
    return [{"seconds": value} for value in seconds]


def test_ratios_are_taken_round_by_round():
    """Both cases are three times slower in the second round and the first loses another 10 in the third: the ratio stays 2."""
    found = ratio(rounds(2.0, 6.0, 14.0), rounds(1.0, 3.0, 2.0))
    assert found == {"median": 2.0, "smallest": 2.0, "largest": 7.0, "outliers": 0, "quotients": [2.0, 2.0, 7.0]}


def test_outliers_are_counted_and_not_kept():
    """From seven rounds on: of fewer nobody can tell."""
    made = [2.0, 2.1, 1.9, 2.05, 9.0, 1.95, 2.0]
    found = ratio(rounds(*made), rounds(*[1.0] * 7))
    assert found == {"median": 2.0, "smallest": 1.9, "largest": 2.1, "outliers": 1, "quotients": made}
    assert ratio(rounds(*made[:5]), rounds(*[1.0] * 5))["largest"] == 9.0


def test_what_spreads_too_far_needs_more_rounds():
    names = "GRADE-STE", "REINFORCE"
    quiet = dict(zip(names, (rounds(1.2, 1.3, 1.4, 1.3), rounds(1.0, 1.0, 1.0, 1.0)), strict=True))
    loud = dict(zip(names, (rounds(0.8, 1.3, 1.9, 1.3), rounds(1.0, 1.0, 1.0, 1.0)), strict=True))
    for measured in (*quiet.values(), *loud.values()):
        for one in measured:
            one["memory"] = 1.0
    assert settled(quiet)
    assert not settled(loud)


SMALL = {"rows": 4, "new_tokens": 8, "vocab_size": 2048, "hidden_size": 32, "layers": 1, "mlp_size": 64}


@pytest.mark.slow
def test_cases_in_processes_take_turns():
    measured = take_turns({"ours": ("adjoint", SMALL), "theirs": ("nothing", SMALL)}, 2, optional=["theirs"])
    assert list(measured) == ["ours"]
    assert all(one["seconds"] > 0 and one["memory"] > 0 and one["hops"] >= 1 for one in measured["ours"])
    assert len(measured["ours"]) == 2
    assert len(take_turns({"ours": ("adjoint", SMALL)}, 1, settled=lambda found: False)["ours"]) == 2
    with pytest.raises(RuntimeError, match="KeyError: 'nothing'"):
        Worker("nothing", SMALL)


def test_floors_at_the_shape_of_qwen3_4b():
    """4.02e9 weights, 3.6e9 of them in layers, as its model card says; one reading of them all at 4.8 TB/s takes 1.7 ms."""
    setting = Setting(**QWEN3_4B, precision="bf16")
    layers, head = weights(setting)
    assert layers + head == pytest.approx(4.02e9, rel=0.005)
    assert layers == pytest.approx(3.6e9, rel=0.02)
    least = floor(setting, "reinforce", None, 4.8e12, 8e14)
    assert least["rollout"] == pytest.approx(64 * 1.68e-3, rel=0.01)
    # Three passes over 16 x 96 tokens by 3.6e9 weights, and three products with the head for 1,024: 2 operations each.
    assert least["products"] == pytest.approx(2 * (3 * 1536 * 3.63e9 + 3 * 1024 * 0.389e9) / 8e14, rel=0.01)
