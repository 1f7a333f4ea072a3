"""REINFORCE, PPO, RLOO and GRPO: the common suite, and what is their own."""

import pytest

from grade_lightning.methods import GRPO, PPO, REINFORCE, RLOO
from tests.methods.harness import shared_of
from tests.methods.suite import MethodSuite


class PolicyGradientSuite(MethodSuite):
    task_batch, task_tokens, task_threshold = 16, 4, 0.7


class TestReinforce(PolicyGradientSuite):
    def make(self, policy, **shared):
        return REINFORCE(shared_of(policy, **shared))


class TestPPO(PolicyGradientSuite):
    def make(self, policy, **shared):
        return PPO(shared_of(policy, **shared), value_lr=1e-2)


class TestRLOO(PolicyGradientSuite):
    def make(self, policy, **shared):
        return RLOO(shared_of(policy, **shared), completions_per_prompt=2)


class TestGRPO(PolicyGradientSuite):
    def make(self, policy, **shared):
        return GRPO(shared_of(policy, **shared), completions_per_prompt=2)


@pytest.mark.slow
class TestDrGRPO(PolicyGradientSuite):
    def make(self, policy, **shared):
        return GRPO(shared_of(policy, **shared), completions_per_prompt=2, variant="dr_grpo")
