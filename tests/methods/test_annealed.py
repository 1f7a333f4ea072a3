"""From straight-through to RLOO."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from grade_lightning.estimators import rloo_advantages
from grade_lightning.methods import AnnealedGradient, GRPOGradient, RLOOGradient
from grade_lightning.methods.gradients import Apart, take_gradient
from grade_lightning.methods.meter import Meter
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade, make_module, rollouts_of, totals_of
from tests.methods.suite import MethodSuite


def make(policy, **options):
    own = {
        name: options.pop(name)
        for name in ("half", "reward_gain", "policy_gradient", "max_hops", "prompt_weights", "backprop")
        if name in options
    }
    settings = {"temperature": lambda step: 1.0, "completions_per_prompt": 2, "tol": 1e-12, "max_hops": None, **own}
    return make_module(AnnealedGradient, policy, settings, **options)


def at(batch, step):
    """The batch of that policy step."""
    return dataclasses.replace(batch, step=step)


class TestAnnealed(MethodSuite):
    task_batch, task_threshold = 16, 0.9

    def make(self, policy, **options):
        return make(policy, **options)


def test_share_falls_from_one_to_half_to_nothing(policy64):
    method = make(policy64, half=10).method
    assert [method.share(step) for step in (1, 11, 31)] == [1.0, 0.5, 0.25]
    assert method.share(10**9) < 1e-7
    assert method.schedule_values(11) == {"tau": 1.0, "st_share": 0.5}


@pytest.mark.parametrize(("step", "share"), [(1, 1.0), (11, 0.5), (31, 0.25)])
def test_gradient_is_that_mixture_of_its_parents(policy64, step, share):
    """With the gain on straight-through's reward alone, and the whole KL in both."""
    batch = make_batch(policy64)
    found = gradient(make(policy64, half=10, reward_gain=3.0, policy_gradient="rloo", kl_coef=0.3), at(batch, step))
    rloo = gradient(make_module(RLOOGradient, policy64, {"completions_per_prompt": 2}, kl_coef=0.3), at(batch, step))
    reward, whole = (gradient(make_grade(policy64, kl_coef=beta), at(batch, step).repeat(2)) for beta in (0.0, 0.3))
    expected = share * (3 * reward + (whole - reward)) + (1 - share) * rloo
    assert (found - expected).norm() < 1e-6 * expected.norm()  # Qwen3's norms round to fp32, each part by itself
    assert share == 1 or (expected - rloo).norm() > 0.1 * expected.norm()


def test_grpo_comes_in_at_the_length_of_rloo(policy64):
    """Its gradient over the scale that it measures itself: along RLOO's advantages what is left is as long as they are."""
    batch, options = at(make_batch(policy64), 11), {"kl_coef": 0.3}
    found = gradient(make(policy64, half=10, reward_gain=3.0, policy_gradient="grpo", **options), batch)
    pathwise = gradient(make(policy64, half=1e12, reward_gain=3.0, **options), batch)
    module = make_module(GRPOGradient, policy64, {"completions_per_prompt": 2, "match_kl": True}, **options)
    grpo = gradient(module, batch)
    scale, rollouts = module.method.reward_scale, rollouts_of(module, batch)
    own = module.method.credit([module.method.read(rollout, Meter()) for rollout in rollouts], totals_of(rollouts), Meter())
    weights, tokens = torch.cat([advantages for _, advantages in own]), torch.cat([sampled.rollout.mask.sum(dim=1) for sampled, _ in own])
    plain = rloo_advantages(torch.cat([sampled.scores for sampled, _ in own]).view(-1, 2)).flatten()
    along = (tokens * plain * weights / tokens / scale).sum() / (tokens * plain * plain).sum()
    assert float(along) == pytest.approx(1.0)
    assert scale > 2  # rewards of one prompt lie closer together than 1
    expected = 0.5 * pathwise + 0.5 * grpo / module.method.reward_scale
    assert (found - expected).norm() < 1e-6 * expected.norm()
    assert (found - 0.5 * pathwise).norm() > 1e-3 * found.norm()


FULL, BY_TOKENS = {"logprobs": "full"}, {"kl_reduction": "token_mean"}
DROPS = {"dropout": 0.3}
CHECKPOINTED = {**DROPS, "checkpointing": True}  # such a layer runs again in the backward pass, and must find the dropout that it ran with


@pytest.mark.parametrize("accumulation", [1, 2])
@pytest.mark.parametrize(
    ("own", "options"),
    [
        ({}, {}), ({}, FULL), ({}, BY_TOKENS), ({}, {"max_hops": 0}), ({}, {"policy_gradient": "rloo"}), ({}, {"prompt_weights": "spread"}),
        ({}, {"backprop": "sequential"}), (DROPS, {}), (DROPS, {"max_hops": 0}), (CHECKPOINTED, {}), (CHECKPOINTED, {"max_hops": 0}),
    ],
)  # fmt: skip
def test_one_pass_for_both_parts_is_a_pass_for_each(model_folder, own, options, accumulation):
    """Also where reward and KL are wanted apart; each part by itself is what a study of gradients asks for."""
    _, policy = make_policy(model_folder, **own)
    module = make(policy, half=10, reward_gain=3.0, kl_coef=0.3, grad_accumulation=accumulation, **options)
    method, weights, found = module.method, list(policy.trainable().values()), []
    rollouts = rollouts_of(module, at(make_batch(policy), 11))
    assert len(rollouts) == accumulation
    for accumulate in (method.accumulate, method.accumulate_plainly):
        for apart in (None, Apart(weights)):
            method.apart, meter = apart, Meter()
            accumulate(rollouts, totals_of(rollouts), meter, 11)
            found.append((take_gradient(weights), apart, meter.compute()))
    (together, _, measured), (_, parts, _), (alone, _, expected), (_, own, _) = found
    assert (together - alone).norm() < 1e-6 * alone.norm()  # Qwen3's norms round to fp32, each part by itself
    for name in ("reward", "kl"):
        a, b = (getattr(each, name) for each in (parts, own))
        assert (a - b).norm() < 1e-6 * b.norm() > 0
    assert (parts.reward + parts.kl - together).norm() < 1e-9 * together.norm()
    same = ("reward", "kl", "entropy", "advantage_std", "reward_scale", "largest_weight")
    assert {name: measured[name] for name in same} == pytest.approx({name: expected[name] for name in same}, rel=1e-5)


def test_how_much_of_the_chain_was_left_out_is_said_where_it_is_known(policy64):
    """The pass that serves both parts measures nothing of the chain; hops that were made do."""
    measured = {}
    for hops in (None, 0):
        module, meter = make(policy64, half=10, max_hops=hops), Meter()
        rollouts = rollouts_of(module, at(make_batch(policy64), 11))
        module.method.accumulate(rollouts, totals_of(rollouts), meter, 11)
        measured[hops] = meter.compute()
    assert measured[None]["hops"] > 0
    assert 0 <= measured[None]["residual"] <= 1e-6
    assert measured[None]["first_ratio"] > 0
    assert measured[0]["hops"] == 0
    assert measured[0]["truncated"] == 1
    assert not {"residual", "first_ratio"} & measured[0].keys()


@pytest.mark.parametrize("into", ["rloo", "grpo"])
def test_parts_of_the_gradient_add_up(policy64, into):
    """Reward and KL apart: their sum is the whole, and without a KL there is none."""
    for beta in (0.3, 0.0):
        module = make(policy64, half=10, kl_coef=beta, policy_gradient=into)
        apart = module.method.apart = Apart(policy64.trainable().values())
        whole = gradient(module, at(make_batch(policy64), 11))
        assert (apart.reward + apart.kl - whole).norm() < 1e-9 * whole.norm()
        assert bool(apart.kl.norm() > 0) == (beta > 0)


@pytest.mark.parametrize(("dropout", "into"), [(0.0, "rloo"), (0.3, "rloo"), (0.0, "grpo")])
def test_any_accumulation_once_both_parts_have_a_share(model_folder, dropout, into):
    found = []
    for parts in (1, 2):
        _, policy = make_policy(model_folder, dropout=dropout)
        found.append(gradient(make(policy, half=10, grad_accumulation=parts, policy_gradient=into), at(make_batch(policy), 11)))
    assert (found[0] - found[1]).norm() < 1e-6 * found[0].norm()


def test_gradients_of_a_study_teach_nothing(policy64):
    """Neither a calibrated gain nor GRPO's scale is learned from single rollouts that are measured."""
    module = make(policy64, half=10, reward_gain="calibrated", policy_gradient="grpo")
    before = {name: value.clone() for name, value in module.method.state_dict().items() if isinstance(value, torch.Tensor)}
    rollouts = rollouts_of(module, at(make_batch(policy64), 11))
    module.method.accumulate_plainly(rollouts, totals_of(rollouts), Meter(), 11)
    assert float(take_gradient(policy64.trainable().values()).norm()) > 0
    assert any("calibration" in name for name in before)
    assert any("known_scale" in name for name in before)
    after = module.method.state_dict()
    assert all(torch.equal(value.nan_to_num(-1), after[name].nan_to_num(-1)) for name, value in before.items())


def test_the_shifted_kl_is_measured_beside(policy64):
    module = make(policy64, half=10, kl_alignment="shifted")
    meter, rollouts = Meter(), rollouts_of(module, at(make_batch(policy64), 11))
    module.method.accumulate(rollouts, totals_of(rollouts), meter, 11)
    assert {"kl", "kl_shifted", "advantage_std"} <= meter.compute().keys()


def test_soft_tokens_cannot_be_shared(policy64):
    with pytest.raises(ValueError, match="mixtures"):
        make_module(AnnealedGradient, policy64, {"temperature": lambda step: 1.0, "straight_through": False})
