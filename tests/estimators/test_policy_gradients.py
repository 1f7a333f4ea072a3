"""Policy-gradient losses and advantages against other libraries (tests/references), hand-enumerated cases and exact gradients."""

import importlib.util
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from grade_lightning.estimators import (
    exact_kl,
    gae,
    grpo_advantages,
    ppo_clip_loss,
    reinforce_loss,
    rloo_advantages,
    sampled_kl,
    value_loss,
)
from tests import unchecked_shapes

REFERENCES = Path(__file__).parents[1] / "references"
SAVED = json.loads((REFERENCES / "policy_gradients.json").read_text())


def tensor(*path: str) -> torch.Tensor:
    value = SAVED
    for name in path:
        value = value[name]
    return torch.tensor(value, dtype=torch.float64)


def test_gae_equals_torchrl():
    mask = tensor("gae", "mask").bool()
    assert not mask.all()
    advantages, returns = gae(tensor("gae", "rewards"), tensor("gae", "values"), mask, gamma=0.99, lam=0.95)
    assert torch.allclose(advantages, tensor("gae", "advantages"), atol=1e-6)  # torchrl computes part of it in float32
    assert torch.allclose(returns, torch.where(mask, advantages + tensor("gae", "values"), 0.0))


def test_gae_by_hand_and_what_stands_in_the_padding():
    """gamma 1/2, lambda 1/2: delta = (0 + 2/2 - 1, 0 + 4/2 - 2, 8 - 4) = (0, 0, 4), A = (4/16, 4/4, 4)."""
    rewards, values = torch.tensor([[0.0, 0.0, 8.0, 99.0]]), torch.tensor([[1.0, 2.0, 4.0, 99.0]])
    advantages, returns = gae(rewards, values, torch.tensor([[1, 1, 1, 0]]), gamma=0.5, lam=0.5)
    assert advantages.tolist() == [[0.25, 1.0, 4.0, 0.0]]
    assert returns.tolist() == [[1.25, 3.0, 8.0, 0.0]]


def test_gae_refuses_another_rank():
    with unchecked_shapes(), pytest.raises(ValueError, match=r"\[B, T\]"):
        gae(torch.zeros(3), torch.zeros(3), torch.ones(3), gamma=1.0, lam=1.0)


def test_clipped_loss_and_its_gradient_equal_torchrl():
    logits = tensor("clip", "logits").requires_grad_()
    tokens = tensor("clip", "tokens").long()
    logprobs = torch.log_softmax(logits, -1).gather(-1, tokens[:, None])[:, 0]
    shape = (4, 6)
    loss, metrics = ppo_clip_loss(
        logprobs.view(shape), tensor("clip", "old_logprobs").view(shape), tensor("clip", "advantages").view(shape),
        torch.ones(shape, dtype=torch.bool), cliprange=SAVED["clip"]["cliprange"],
    )  # fmt: skip
    assert float(loss) == pytest.approx(SAVED["clip"]["loss"], rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.allclose(gradient, tensor("clip", "gradient"), atol=1e-8)
    assert 0 < metrics["clipfrac"] < 1


def test_clipped_loss_ignores_the_padding():
    """Two real tokens, ratios 1.5 and 0.5, advantages 1 and -1, eps 0.2: -(min(1.5, 1.2) + min(-0.5, -0.8)) / 2 = -0.2."""
    logprobs = torch.tensor([[1.5, 0.5, 7.0]]).log().requires_grad_()
    padding = torch.tensor([[0.0, 0.0, -float("inf")]])
    mask = torch.tensor([[True, True, False]])
    loss, metrics = ppo_clip_loss(logprobs, padding, torch.tensor([[1.0, -1.0, float("nan")]]), mask, cliprange=0.2)
    assert float(loss) == pytest.approx(-0.2)
    assert float(metrics["clipfrac"]) == 1.0
    (gradient,) = torch.autograd.grad(loss, logprobs)
    assert gradient.tolist() == [[0.0, 0.0, 0.0]]


def test_value_loss_takes_the_worse_of_free_and_clipped():
    values, returns, old = torch.tensor([[2.0, 0.0]]), torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 9.0]])
    mask = torch.tensor([[True, False]])
    assert float(value_loss(values, returns, mask)) == 0.0
    assert float(value_loss(values, returns, mask, old_values=old, cliprange=0.5)) == pytest.approx(0.5 * 0.25)


@pytest.mark.parametrize(
    ("name", "ours"),
    [("rloo", rloo_advantages), ("grpo", grpo_advantages), ("dr_grpo", lambda scores: grpo_advantages(scores, normalise_std=False))],
)
def test_group_advantages_equal_trl(name, ours):
    assert torch.allclose(ours(tensor(name, "scores")), tensor(name, "advantages"), atol=1e-6)


def test_groups_of_one_are_refused():
    with pytest.raises(ValueError, match="at least 2 completions"):
        rloo_advantages(torch.zeros(4, 1))


def enumerable_policy():
    """Three tokens from V = 4, each depending on the one before it; all 64 sequences, their probabilities and rewards."""
    generator = torch.Generator().manual_seed(0)
    table = torch.randn(5, 4, generator=generator, dtype=torch.float64).requires_grad_()  # row 4: the start
    sequences = torch.tensor(list(itertools.product(range(4), repeat=3)))
    rewards = torch.rand(64, generator=generator, dtype=torch.float64)

    def logprobs(tokens: torch.Tensor) -> torch.Tensor:
        before = torch.cat([torch.full((len(tokens), 1), 4), tokens[:, :-1]], 1)
        return torch.log_softmax(table, -1)[before, tokens]

    return table, sequences, rewards, logprobs


@pytest.mark.parametrize("baseline", ["constant", "leave-one-out"])
def test_reinforce_gradient_is_unbiased(baseline):
    """Mean over many draws against the gradient of the enumerated expectation: chi-square over coordinates."""
    from scipy.stats import chi2

    table, sequences, rewards, logprobs = enumerable_policy()
    probabilities = logprobs(sequences).sum(1).exp()
    (exact,) = torch.autograd.grad((probabilities * rewards).sum(), table)
    generator, gradients = torch.Generator().manual_seed(1), []
    for _ in range(400):
        drawn = torch.multinomial(probabilities.detach(), 32, replacement=True, generator=generator)
        scores = rewards[drawn]
        advantages = rloo_advantages(scores.view(8, 4)).flatten() if baseline == "leave-one-out" else scores - 0.3
        loss, _ = reinforce_loss(logprobs(sequences[drawn]), advantages, torch.ones(32, 3, dtype=torch.bool))
        gradients.append(-torch.autograd.grad(loss, table)[0].flatten())
    found = torch.stack(gradients)
    # One direction a row of the table is a constant shift, along which nothing moves: leave the last column out.
    keep = [i for i in range(20) if i % 4 != 3]
    error = (found.mean(0) - exact.flatten())[keep]
    covariance = torch.cov(found[:, keep].T) / len(found)
    statistic = float(error @ torch.linalg.solve(covariance, error))
    assert statistic < chi2.ppf(0.999, len(keep))
    wrong = (found.mean(0) - 1.3 * exact.flatten())[keep]  # the test can tell
    assert float(wrong @ torch.linalg.solve(covariance, wrong)) > chi2.ppf(0.999, len(keep))


def test_reinforce_loss_is_minus_the_mean_of_advantage_times_sequence_logprob():
    logprobs = torch.tensor([[-1.0, -2.0, -4.0], [-1.0, -8.0, -8.0]])
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]])
    assert float(reinforce_loss(logprobs, torch.tensor([1.0, -2.0]), mask)[0]) == pytest.approx((7.0 - 2.0) / 2)
    assert float(reinforce_loss(logprobs, torch.tensor([1.0, -2.0]), mask, lengths=mask.sum(1))[0]) == pytest.approx((7 / 3 - 2) / 2)
    with unchecked_shapes(), pytest.raises(ValueError, match=r"\[B\]"):
        reinforce_loss(logprobs, torch.zeros(2, 3), mask)


def test_sampled_kl_means_and_the_gradients_they_have_as_losses():
    """All by enumeration of one categorical: no sampling error."""
    generator = torch.Generator().manual_seed(2)
    logits = torch.randn(6, generator=generator, dtype=torch.float64).requires_grad_()
    log_q = torch.log_softmax(torch.randn(6, generator=generator, dtype=torch.float64), -1)
    log_p = torch.log_softmax(logits, -1)
    p = log_p.exp().detach()
    exact = torch.distributions.kl_divergence(torch.distributions.Categorical(logits=log_p), torch.distributions.Categorical(logits=log_q))
    assert float(exact_kl(logits[None, None], log_q[None, None], torch.ones(1, 1, dtype=torch.bool))) == pytest.approx(float(exact))
    means = {name: float((p * sampled_kl(log_p - log_q, name)).sum()) for name in ("k1", "k2", "k3")}
    assert means["k1"] == pytest.approx(float(exact))
    assert means["k3"] == pytest.approx(float(exact))
    assert abs(means["k2"] - float(exact)) > 0.01
    true = torch.autograd.grad(exact, logits, retain_graph=True)[0]
    reverse = torch.autograd.grad((log_q.exp() * (log_q - log_p)).sum(), logits, retain_graph=True)[0]
    slopes = {}
    for name in means:
        slopes[name] = torch.autograd.grad((p * sampled_kl(log_p - log_q, name)).sum(), logits, retain_graph=True)[0]
    assert torch.allclose(slopes["k1"], torch.zeros(6, dtype=torch.float64), atol=1e-12)
    assert torch.allclose(slopes["k2"], true)
    assert torch.allclose(slopes["k3"], reverse)


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("torchrl", "trl")),
    reason="torchrl and trl are not installed: the committed values are used as they are",
)
def test_references_are_what_the_libraries_give_now(tmp_path):
    subprocess.run([sys.executable, str(REFERENCES / "make_policy_gradients.py"), str(tmp_path / "new.json")], check=True, timeout=300)
    new = json.loads((tmp_path / "new.json").read_text())
    for name in set(SAVED) - {"versions"}:
        for key, value in SAVED[name].items():
            assert torch.allclose(torch.tensor(value, dtype=torch.float64), torch.tensor(new[name][key], dtype=torch.float64), atol=1e-6)
