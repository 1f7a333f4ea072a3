"""REINFORCE, PPO, RLOO and GRPO: the common suite, and what is their own."""

import pytest

from grade_lightning.methods import GRPOGradient, PPOGradient, ReinforceGradient, RLOOGradient
from tests.methods.harness import make_module
from tests.methods.suite import MethodSuite


class PolicyGradientSuite(MethodSuite):
    task_batch, task_tokens, task_threshold = 16, 4, 0.7


class TestReinforce(PolicyGradientSuite):
    def make(self, policy, **options):
        return make_module(ReinforceGradient, policy, {}, **options)


class TestPPO(PolicyGradientSuite):
    def make(self, policy, **options):
        return make_module(PPOGradient, policy, {"value_lr": 1e-2}, **options)


class TestRLOO(PolicyGradientSuite):
    def make(self, policy, **options):
        return make_module(RLOOGradient, policy, {"completions_per_prompt": 2}, **options)


class TestGRPO(PolicyGradientSuite):
    def make(self, policy, **options):
        return make_module(GRPOGradient, policy, {"completions_per_prompt": 2}, **options)


@pytest.mark.slow
class TestDrGRPO(PolicyGradientSuite):
    def make(self, policy, **options):
        return make_module(GRPOGradient, policy, {"completions_per_prompt": 2, "variant": "dr_grpo"}, **options)
