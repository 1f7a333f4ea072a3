"""GRADE and GRADE-STE: the common suite, and what is their own."""

import dataclasses

import pytest
import torch

from grade_lightning.chain.parallel import completions_of
from grade_lightning.estimators import decoupled_st_weights, entropy_gated_weights, gumbel_rao_weights, reinmax_weights
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade, train_steps
from tests.methods.suite import MethodSuite


class TestGradeSTE(MethodSuite):
    def make(self, policy, **options):
        return make_grade(policy, straight_through=True, **options)


class TestGrade(MethodSuite):
    def make(self, policy, **options):
        return make_grade(policy, straight_through=False, **options)


@pytest.mark.slow
class TestEntRGi(MethodSuite):
    def make(self, policy, **options):
        return make_grade(policy, straight_through=False, relaxation=entropy_gated_weights, **options)


@pytest.mark.slow
class TestGumbelRao(MethodSuite):
    def make(self, policy, **options):
        return make_grade(policy, relaxation=gumbel_rao_weights, **options)


@pytest.mark.slow
class TestSequentialGradeSTE(MethodSuite):
    def make(self, policy, **options):
        return make_grade(policy, backprop="sequential", **options)


@pytest.mark.parametrize("weights", [decoupled_st_weights, reinmax_weights, gumbel_rao_weights])
def test_every_relaxation_goes_through_the_adjoint(policy64, weights):
    """Equal to token-by-token backpropagation, and a gradient of its own."""
    batch, plain = make_batch(policy64), gradient(make_grade(policy64), make_batch(policy64))
    adjoint = gradient(make_grade(policy64, relaxation=weights, kl_coef=0.3), batch)
    sequential = gradient(make_grade(policy64, relaxation=weights, kl_coef=0.3, backprop="sequential"), batch)
    assert (adjoint - sequential).norm() < 2e-6 * sequential.norm()
    assert (gradient(make_grade(policy64, relaxation=weights), batch) - plain).norm() > 1e-2 * plain.norm()


def test_gated_mixtures_go_through_the_adjoint(policy64):
    """What is fed is neither one token nor the mixture, and its gradient is that of token-by-token backpropagation."""
    batch, options = make_batch(policy64), {"relaxation": entropy_gated_weights, "straight_through": False, "kl_coef": 0.3}
    adjoint = gradient(make_grade(policy64, **options), batch)
    sequential = gradient(make_grade(policy64, backprop="sequential", **options), batch)
    assert (adjoint - sequential).norm() < 2e-6 * sequential.norm()
    soft = gradient(make_grade(policy64, straight_through=False, kl_coef=0.3), batch)
    assert (adjoint - soft).norm() > 1e-2 * soft.norm()


def test_a_relaxation_that_feeds_something_else_is_refused(policy64):
    with pytest.raises(ValueError, match="straight_through=false"):
        make_grade(policy64, relaxation=entropy_gated_weights)
    with pytest.raises(ValueError, match="straight_through=true"):
        make_grade(policy64, relaxation=decoupled_st_weights, straight_through=False)


def test_completion_scope_scores_the_completion_alone(policy64):
    full, alone = (make_grade(policy64, scope=scope) for scope in ("full", "completion"))
    batch = make_batch(policy64)
    assert (gradient(full, batch) - gradient(alone, batch)).norm() > 1e-6
    other = make_batch(policy64, ["Quinn plays a tired detective.", "It was.", "A comedy.", "Granted, the script is dull."])
    rollout = alone.sample_effective_batch(batch)[0]

    def scores(module, prompt):
        written = completions_of(policy64, rollout)
        return module.context.reward.score(dataclasses.replace(written, prompt=prompt))

    assert torch.equal(scores(alone, batch), scores(alone, other))
    assert not torch.allclose(scores(full, batch), scores(full, other))


@pytest.mark.parametrize("straight_through", [True, False])
def test_soft_hard_gap_and_diagnostics(model_folder, data_module, straight_through):
    _, policy = make_policy(model_folder, precision="fp32")
    row = train_steps(make_grade(policy, straight_through=straight_through, tau=2.0), data_module, 1)[0]
    assert 0 < row["largest_weight"] < 1
    assert 0 < row["reward_uncertainty"] <= 0.25
    assert row["soft_hard_gap"] != 0
    assert row["grad_norm_tensor_std"] > 0
    assert row["loss"] == pytest.approx(-row["reward"] + 0.1 * row["kl"], rel=1e-5)


def test_sequence_kl_is_the_sum_over_a_completion(policy64):
    batch = make_batch(policy64)
    tokens = make_grade(policy64).sample_effective_batch(batch)[0].tokens
    no_kl, mean, total = (
        gradient(make_grade(policy64, kl_coef=coef, kl_reduction=how), batch)
        for coef, how in ((0.0, "sequence"), (1.0, "token_mean"), (1.0, "sequence"))
    )
    assert (total - no_kl - (mean - no_kl) * tokens / len(batch)).norm() < 1e-5 * total.norm()


def test_straight_through_forward_is_hard(policy64):
    """The reward that GRADE-STE logs is the reward of the tokens it wrote."""
    from grade_lightning.methods.base import Totals
    from grade_lightning.methods.meter import Meter

    method, batch, meter = make_grade(policy64), make_batch(policy64), Meter()
    rollout = method.sample_effective_batch(batch)[0]
    method.method.accumulate([rollout], Totals(4, rollout.tokens), meter, 1)
    hard = method.context.reward.score(completions_of(policy64, rollout)).mean()
    assert meter.compute()["reward"] == pytest.approx(float(hard), abs=1e-6)


def test_gradient_clipping_reports_the_norm_before(model_folder, data_module):
    _, policy = make_policy(model_folder, precision="fp32")
    free = train_steps(make_grade(policy, max_grad_norm=None), data_module, 1)[0]
    _, policy = make_policy(model_folder, precision="fp32")
    clipped = train_steps(make_grade(policy, max_grad_norm=1e-3), data_module, 1)[0]
    assert clipped["grad_norm"] == free["grad_norm"] > 1e-3
    assert (free["grad_clipped"], clipped["grad_clipped"]) == (0.0, 1.0)


@pytest.mark.parametrize(("options", "message"), [({"backprop": "magic"}, "one of adjoint, sequential"),
                                                  ({"backprop": "sequential", "max_hops": 1}, "max_hops")])  # fmt: skip
def test_bad_options_are_refused(policy64, options, message):
    with pytest.raises(ValueError, match=message):
        make_grade(policy64, **options)
