"""The watch over the straight-through gradient's direction."""

from __future__ import annotations

import csv

import pytest
import torch
from torch import nn

from grade_lightning.study.alarm import GradientCosine
from tests.conftest import make_batch, make_policy
from tests.entry import run_small
from tests.methods.harness import make_grade


class Letters(nn.Module):
    """Reward = mean over tokens of a fixed liking; ``sign`` is the slope that relaxed tokens see, which a true reward has at 1."""

    differentiable, soft, reads_states, range = True, True, False, (None, None)

    def __init__(self, vocab_size: int, sign: float):
        super().__init__()
        self.vocabulary, self.sign = vocab_size, sign
        self.liking = torch.randn(vocab_size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)

    def score(self, completions):
        soft, ids, mask = completions.soft, completions.ids, completions.mask
        if soft is not None:
            likings = (soft.weights * self.liking[soft.indices]).sum(-1)
            likings = self.sign * likings + (1 - self.sign) * likings.detach()
        else:
            likings = self.liking[ids]
        return (likings * mask).sum(1) / mask.sum(1)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sign_of_the_cosine(model_folder, sign, caplog):
    _, policy = make_policy(model_folder)
    method = make_grade(policy, kl_coef=0.0, reward=Letters(policy.vocab_size, sign))
    alarm = GradientCosine(1, prompts=4, completions=8)
    for step in range(1, 9):
        cosine = alarm.measure(method.method, make_batch(policy, step=step))
    assert cosine * sign > 0.5
    method.step_metrics = {}
    alarm.on_train_batch_end(None, method, None, make_batch(policy, step=9), 0)
    assert method.step_metrics["gradient_cosine"] * sign > 0.5
    assert ("may have the wrong sign" in caplog.text) == (sign < 0)


def test_the_shifted_kl_is_no_part_of_what_is_compared(model_folder):
    """``kl_alignment=shifted`` measures one number more; a policy gradient, which cannot, is compared all the same."""
    found = []
    for alignment in ("correct", "shifted"):
        _, policy = make_policy(model_folder)
        method = make_grade(policy, kl_coef=0.0, kl_alignment=alignment, reward=Letters(policy.vocab_size, 1.0)).method
        alarm = GradientCosine(1, prompts=4, completions=8)
        found.append([alarm.measure(method, make_batch(policy, step=step)) for step in range(1, 7)][-1])
    assert found[0] == found[1]  # nan would not be


@pytest.mark.slow
def test_in_a_run(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    plain = run_small(tmp_path / "plain", "max_steps=3")
    watched = run_small(tmp_path / "watched", "max_steps=3", "evaluation.gradient_cosine_every=1")
    rows = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("plain", "watched")]
    assert [row["train/reward"] for row in rows[0]] == [row["train/reward"] for row in rows[1]]  # training is not touched
    assert plain["test"]["reward_mean"] == watched["test"]["reward_mean"]


@pytest.mark.parametrize("override", ["method=rloo", "method=hybrid"])
def test_only_where_there_is_something_to_watch(tmp_path, override):
    with pytest.raises(ValueError, match="leave it at 0"):
        run_small(tmp_path / "run", override, "evaluation.gradient_cosine_every=1", "effective_batch_size=16")
