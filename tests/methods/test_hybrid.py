"""The hybrid of a policy gradient and a straight-through gradient."""

from __future__ import annotations

import pytest
import torch

from grade_lightning.estimators import PairedSums
from grade_lightning.methods import HybridGradient, RLOOGradient
from grade_lightning.methods.meter import Meter
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade, make_module
from tests.methods.suite import MethodSuite


def make(policy, **options):
    own = {name: options.pop(name) for name in ("min_cosine", "momentum", "reward_gain") if name in options}
    settings = {"temperature": lambda step: 1.0, "completions_per_prompt": 2, "tol": 1e-12, **own}
    return make_module(HybridGradient, policy, settings, **options)


class TestHybrid(MethodSuite):
    task_batch, task_threshold = 16, 0.9

    def make(self, policy, **options):
        return make(policy, **options)

    @pytest.mark.slow
    def test_learns_a_solvable_task(self, model_folder, splits, tokenizer):
        super().test_learns_a_solvable_task(model_folder, splits, tokenizer)


def parents(policy):
    """The same rollouts' gradients of the reward by the parents themselves, and straight-through's of the KL."""
    batch = make_batch(policy)
    rloo = gradient(make_module(RLOOGradient, policy, {"completions_per_prompt": 2}, kl_coef=0.0), batch)
    reward, whole = (gradient(make_grade(policy, kl_coef=beta), batch.repeat(2)) for beta in (0.0, 0.3))
    return rloo, reward, whole - reward


@pytest.mark.parametrize(("a", "b", "gain"), [(1.0, 0.0, "none"), (0.25, 3.0, "none"), (0.25, 3.0, 2.5)])
def test_weights_combine_the_rewards_gradients_and_the_kl_counts_once(policy64, monkeypatch, a, b, gain):
    monkeypatch.setattr("grade_lightning.methods.hybrid.hybrid_weights", lambda *_, **__: (a, b))
    found = gradient(make(policy64, kl_coef=0.3, reward_gain=gain), make_batch(policy64))
    rloo, straight_through, kl = parents(policy64)
    expected = (1.0 if gain == "none" else gain) * (a * rloo + b * straight_through) + kl
    assert (found - expected).norm() < 1e-6 * expected.norm()  # Qwen3's norms round to fp32, each part by itself


def halves_of(unbiased, biased) -> list[PairedSums]:
    """Four chunks' estimates as the sums of two halves."""
    found = []
    for rows in (slice(0, 2), slice(2, 4)):
        sums = PairedSums([unbiased.shape[1]])
        for g, h in zip(unbiased[rows], biased[rows], strict=True):
            sums.add(g, h)
        found.append(sums)
    return found


def test_no_sample_weighs_itself(policy64):
    """Changing the second half's gradients changes the first half's weights and not the second's."""
    method = make(policy64, momentum=0.0).method
    generator = torch.Generator().manual_seed(0)
    mean = torch.randn(50, generator=generator)
    noise = torch.randn(2, 4, 50, generator=generator)
    unbiased, biased = mean + noise[0], mean + 0.1 * noise[1]

    def weights(unbiased, biased):
        meter = []

        class Spy(Meter):
            def update(self, weight=1.0, **values):
                meter.append(values.get("st_weight"))

        method.moments.zero_()
        method.weight_of_moments.zero_()
        method.combine(halves_of(unbiased, biased), Spy())
        return meter

    before = weights(unbiased, biased)
    changed = unbiased.clone()
    changed[2:] += torch.randn(2, 50, generator=generator)
    after = weights(changed, biased)
    assert after[1] == before[1]  # of the second half: from the first, which did not change
    assert after[0] != before[0]


def test_history_is_kept_in_checkpoints(policy64):
    method = make(policy64)
    generator = torch.Generator().manual_seed(0)
    method.method.combine(halves_of(*torch.randn(2, 4, 9, generator=generator)), Meter())
    kept = method.state_dict()
    assert {"method.moments", "method.weight_of_moments"} <= kept.keys()
    assert float(kept["method.weight_of_moments"]) > 0
    assert sum(weight.numel() for name, weight in kept.items() if name.startswith("policy.")) == sum(
        weight.numel() for weight in policy64.trainable().values()
    )


def test_batch_must_be_halved_twice(model_folder):
    _, policy = make_policy(model_folder)
    with pytest.raises(ValueError, match="multiple of 8"):
        gradient(make(policy), make_batch(policy)[:3])


def test_the_shifted_kl_is_no_part_of_what_is_weighed(policy64):
    """It is measured by relaxed methods, of which the hybrid is one; its policy gradient knows none."""
    plain, shifted = (gradient(make(policy64, kl_alignment=alignment), make_batch(policy64)) for alignment in ("correct", "shifted"))
    assert torch.equal(plain, shifted)
