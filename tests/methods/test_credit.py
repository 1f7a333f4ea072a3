"""Credit of single tokens by the reward's gradient: the common suite, exact expectations, and twins."""

import pytest
import torch

from grade_lightning.estimators import decoupled_st_weights, token_credit
from grade_lightning.methods import CreditGradient, RLOOGradient
from grade_lightning.rewards.function import FunctionReward
from tests.conftest import make_batch
from tests.methods.harness import gradient, make_grade, make_module
from tests.methods.suite import MethodSuite

PAIRS = {"completions_per_prompt": 2}


class TestCredit(MethodSuite):
    task_batch, task_tokens, task_threshold = 16, 4, 0.7

    def make(self, policy, **options):
        return make_module(CreditGradient, policy, PAIRS, **options)


class TestControlVariate(MethodSuite):
    task_batch, task_tokens, task_threshold = 16, 4, 0.7

    def make(self, policy, **options):
        return make_module(CreditGradient, policy, {**PAIRS, "form": "control_variate"}, **options)


def test_mean_credit_is_the_straight_through_gradient_for_a_fixed_slope():
    """Over all five tokens: E[c grad log p] = sum_v g_v grad p_v, one candidate being outside the support."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, generator=generator, dtype=torch.float64).requires_grad_()
    slope = torch.randn(1, 1, 5, generator=generator, dtype=torch.float64)
    logprobs = torch.log_softmax(torch.cat([logits[:4], torch.tensor([float("-inf")], dtype=torch.float64)]), dim=-1)
    total = torch.zeros((), dtype=torch.float64)
    for drawn in range(4):
        effect, _ = token_credit(logprobs.view(1, 1, 5), slope, torch.tensor([[drawn]]))
        total = total + (logprobs[drawn].exp() * effect.squeeze()).detach() * logprobs[drawn]
    (found,) = torch.autograd.grad(total, logits, retain_graph=True)
    (truth,) = torch.autograd.grad((logprobs[:4].exp() * slope[0, 0, :4]).sum(), logits, retain_graph=True)
    torch.testing.assert_close(found, truth, rtol=1e-12, atol=1e-14)
    assert truth.norm() > 0.1


@pytest.mark.parametrize("scope", ["full", "completion"])
def test_control_variate_is_rloo_less_credit_plus_straight_through(policy64, scope):
    """All from the same rollouts; straight-through without hops, at temperature 1."""
    batch = make_batch(policy64)
    options = {"scope": scope, "kl_coef": 0.0}
    both = gradient(make_module(CreditGradient, policy64, {**PAIRS, "form": "control_variate"}, **options), batch)
    credit = gradient(make_module(CreditGradient, policy64, PAIRS, **options), batch)
    rloo = gradient(make_module(RLOOGradient, policy64, PAIRS, **options), batch)
    plain = make_grade(policy64, relaxation=decoupled_st_weights, max_hops=0, **options)
    pathwise = gradient(plain, batch.repeat(2))
    assert (both - (rloo - credit + pathwise)).norm() < 2e-6 * both.norm()
    assert min(part.norm() for part in (credit, rloo, pathwise)) > 1e-6


def test_a_reward_without_a_gradient_is_refused(policy64):
    with pytest.raises(ValueError, match="differentiable"):
        make_module(CreditGradient, policy64, PAIRS, reward=FunctionReward(lambda completions, **_: [0.0] * len(completions), "nothing"))
