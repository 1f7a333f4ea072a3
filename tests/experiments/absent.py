"""On a device that is not there: every method's tensors are where they belong, and memory is what it will be.

:mod:`.test_absent` runs these tests in a process of their own: torch never forgets a device that it was told of.
"""

import dataclasses

import pytest
import torch
from torch import nn

from experiments.benchmarks import measure
from experiments.benchmarks.setting import Setting, prompts
from experiments.gpu.absent import DEVICE, absent
from experiments.gpu.forecast import SIZES, Names, fake_method, forecast, measured
from grade_lightning.estimators import reinmax_weights
from grade_lightning.evaluation.evaluator import evaluate_batch
from grade_lightning.methods import (
    CreditGradient,
    GradeGradient,
    GRPOGradient,
    HybridGradient,
    PPOGradient,
    ReinforceGradient,
    RLOOGradient,
)
from grade_lightning.rollout.decoding import StaticDecoder
from tests.conftest import make_context

SMALL = Setting(rows=8, new_tokens=3, vocab_size=512, top_k=16, hidden_size=32, layers=1, heads=2, kv_heads=1, mlp_size=64)


def grade(**options):
    return GradeGradient, {"temperature": lambda step: 1.0, "diagnostics_every": 1, **options}


METHODS = {
    "grade_ste": grade(straight_through=True),
    "grade": grade(straight_through=False),
    "reinmax": grade(straight_through=True, relaxation=reinmax_weights),
    "sequential": grade(straight_through=True, backprop="sequential"),
    "calibrated": grade(straight_through=True, reward_gain="calibrated", completions_per_prompt=2),
    "hybrid": (HybridGradient, {"temperature": lambda step: 1.0, "completions_per_prompt": 2}),
    "ppo": (PPOGradient, {}),
    "reinforce": (ReinforceGradient, {}),
    "rloo": (RLOOGradient, {"completions_per_prompt": 2}),
    "grpo": (GRPOGradient, {"completions_per_prompt": 2}),
    "credit": (CreditGradient, {"completions_per_prompt": 2, "form": "credit"}),
    "control_variate": (CreditGradient, {"completions_per_prompt": 2, "form": "control_variate"}),
}


def fake(setting, kind, options, reward=lambda reward: reward):
    def make(policy, found):
        return kind(make_context(policy, reward(found), tokens=setting.new_tokens, k=setting.top_k), **options)

    return fake_method(dataclasses.replace(setting, device=DEVICE), make)


def update_of(method, setting, base):
    count = method.completions_per_prompt
    _, batch = prompts(dataclasses.replace(setting, device=DEVICE), base, distinct=setting.rows // count)
    return measure.method_update(method, batch, meter=Names)


QUICK = ("grade_ste", "ppo", "rloo")
CHOSEN = [pytest.param(name, "bf16", id=name, marks=() if name in QUICK else pytest.mark.slow) for name in METHODS]


@pytest.mark.parametrize(("name", "precision"), [*CHOSEN, pytest.param("grade_ste", "fp32", marks=pytest.mark.slow)])
def test_every_tensor_of_an_update_is_on_the_device(name, precision):
    setting = dataclasses.replace(SMALL, precision=precision)
    with fake(setting, *METHODS[name]) as (ledger, base, method):
        measured = update_of(method, setting, base)()
        assert ledger.reads > 0
        assert {"reward", "kl"} <= set(measured)
        assert all(str(weight.device).startswith(DEVICE) for weight in method.policy.parameters())


def test_an_evaluation_is_on_the_device():
    with fake(SMALL, ReinforceGradient, {}) as (_, base, method):
        _, batch = prompts(dataclasses.replace(SMALL, device=DEVICE), base)
        found = evaluate_batch(method.policy, method.reward, batch, SMALL.rollout(), seed=0, initial=False, detailed=True, judges={})
        assert len(found) == SMALL.rows


class _Stray(nn.Module):
    """A reward that forgets where its input is."""

    differentiable, soft, reads_states, range, vocabulary = False, False, False, (None, None), None

    def score(self, completions):
        return completions.mask.sum(dim=1) * torch.ones(len(completions.mask))


def test_a_tensor_that_is_elsewhere_is_found():
    with (
        fake(SMALL, RLOOGradient, {"completions_per_prompt": 2}, lambda reward: _Stray()) as (_, base, method),
        pytest.raises(Exception, match="two devices"),
    ):
        update_of(method, SMALL, base)()


def test_bytes_are_followed_until_they_are_gone():
    with absent() as ledger:
        first = torch.empty(1000, dtype=torch.float32, device=DEVICE)
        view = first[:10]
        del first
        assert (ledger.now, ledger.peak) == (4000, 4000)
        del view
        assert (ledger.now, ledger.peak) == (0, 4000)
        assert float(torch.empty((), device=DEVICE)) == 1.0
        assert ledger.reads == 1


MEDIUM = Setting(rows=8, new_tokens=8, vocab_size=4096, hidden_size=128, layers=2, mlp_size=384)


@pytest.mark.parametrize("case", ["adjoint", "reinforce"])
def test_memory_is_foreseen(case):
    assert forecast(case, MEDIUM).update == pytest.approx(measured(case, MEDIUM), rel=0.15)


@pytest.mark.slow
@pytest.mark.parametrize("size", list(SIZES))
def test_memory_is_foreseen_at_three_sizes(size):
    setting = Setting(**SIZES[size])
    assert forecast("adjoint", setting).update == pytest.approx(measured("adjoint", setting), rel=0.15)


def test_a_step_that_is_captured_waits_for_nothing():
    """A CUDA graph can neither read numbers on the host nor take tensors from it."""
    with fake(SMALL, ReinforceGradient, {}) as (ledger, base, method), torch.no_grad():
        policy = method.policy
        _, batch = prompts(dataclasses.replace(SMALL, device=DEVICE), base)
        decoder = StaticDecoder(policy, len(batch), 64).prompts(batch.mask)
        decoder.start(policy.embed(batch.ids))
        ledger.forget()
        hidden = decoder._forward()
        assert (ledger.reads, ledger.uploads) == (0, 0)
        assert hidden.shape == (SMALL.rows, SMALL.hidden_size)
        policy.embed(batch.ids[:, 0])[0, 0].item()
        assert ledger.reads == 1
