"""The surrogate and the method that adds the rest: exact expectations, twins, scikit-learn."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.model_selection import LeaveOneOut, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from grade_lightning.chain.parallel import completions_of
from grade_lightning.estimators import gumbel_noise, reinforce_loss, rloo_advantages
from grade_lightning.methods import GradeGradient, ResidualGradient, RLOOGradient
from grade_lightning.methods.base import Totals
from grade_lightning.methods.gradients import take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.rewards.function import FunctionReward
from grade_lightning.rewards.ridge import PENALTIES, fit_ridge
from grade_lightning.rewards.surrogate import EstimatedReward, RestReward, SurrogateReward
from grade_lightning.rollout.sampling import sample
from tests.conftest import make_batch, make_context, make_policy
from tests.entry import run_small
from tests.methods.harness import gradient, make_module


def test_surrogate_and_rest_are_unbiased_for_any_surrogate():
    """V = 5, T = 3, two completions a prompt, all 125^2 pairs: score-function gradient of r^ plus RLOO of r - r^ is the gradient of E r."""
    vocabulary, length = 5, 3
    generator = torch.Generator().manual_seed(0)
    prefixes = [p for t in range(length) for p in itertools.product(range(vocabulary), repeat=t)]
    logits = torch.randn(len(prefixes), vocabulary, generator=generator, dtype=torch.float64, requires_grad=True)
    rows = {prefix: place for place, prefix in enumerate(prefixes)}
    everything = list(itertools.product(range(vocabulary), repeat=length))
    reward, surrogate = torch.randn(2, len(everything), generator=generator, dtype=torch.float64)
    logprobs = torch.log_softmax(logits, dim=-1)
    paths = torch.stack([torch.stack([logprobs[rows[y[:t]], y[t]] for t in range(length)]) for y in everything])  # [125, 3]
    probability = paths.sum(dim=1).exp()
    (truth,) = torch.autograd.grad((probability * reward).sum(), logits, retain_graph=True)
    (pathwise,) = torch.autograd.grad((probability * surrogate).sum(), logits, retain_graph=True)
    first, second = (grid.flatten() for grid in torch.meshgrid(torch.arange(125), torch.arange(125), indexing="ij"))
    both = torch.stack([first, second], dim=1)  # [15625, 2]
    weight = (probability[first] * probability[second]).detach()
    advantages = rloo_advantages((reward - surrogate)[both])
    mask = torch.ones(2, length, dtype=torch.bool)
    losses = [
        w * reinforce_loss(paths[pair], advantage, mask)[0] for w, pair, advantage in zip(weight, both, advantages, strict=True) if w > 1e-9
    ]
    (rest,) = torch.autograd.grad(-torch.stack(losses).sum(), logits)
    torch.testing.assert_close(pathwise + rest, truth, atol=1e-6, rtol=1e-6)
    assert (pathwise - truth).norm() > 0.1 * truth.norm()  # the surrogate alone points elsewhere


def test_ridge_is_scikit_learns_and_its_left_out_errors_are_those_of_leaving_out():
    rng = np.random.default_rng(0)
    inputs = rng.normal(size=(40, 6)) * [1, 5, 0.1, 1, 1, 0]  # the last says nothing
    values = inputs @ rng.normal(size=6) + rng.normal(size=40)
    found = fit_ridge(torch.tensor(inputs), torch.tensor(values))
    scores = {}
    for penalty in PENALTIES.tolist():
        model = make_pipeline(StandardScaler(), Ridge(alpha=penalty))
        model.fit(inputs, values)
        predicted = (torch.tensor(inputs) - found.origin) @ found.slope + found.level
        scores[penalty] = np.abs(model.predict(inputs) - predicted.numpy()).max()
    best = min(scores, key=scores.get)
    assert scores[best] < 1e-8
    # scikit-learn scales each fold anew, which changes the penalty by a few percent.
    left_out = cross_val_predict(make_pipeline(StandardScaler(), Ridge(alpha=best)), inputs, values, cv=LeaveOneOut())
    assert found.left_out_r2 == pytest.approx(1 - ((values - left_out) ** 2).mean() / values.var(), abs=0.01)


def vowels(completions, **_):
    return [sum(letter in "aeiou" for letter in text) / (1 + len(text)) for text in completions]


@pytest.fixture
def taught(model_folder):
    """A policy and a surrogate that has seen some completions."""
    _, policy = make_policy(model_folder)
    reward = SurrogateReward(policy, FunctionReward(vowels, "vowels"), capacity=64, least=8)
    context = make_context(policy, reward)
    for step in range(4):
        see(policy, context, reward, step)
        reward.learn()
    return policy, reward, context


def rollout_of(policy, context, step: int, repeat: int = 4):
    batch = make_batch(policy, step=step + 1).repeat(repeat)
    generator = torch.Generator().manual_seed(step)
    noise = gumbel_noise((len(batch), context.rollout.max_new_tokens, context.rollout.top_k), generator=generator)
    return sample(policy, batch, noise, context.rollout)


def see(policy, context, reward, step: int):
    rollout = rollout_of(policy, context, step)
    weights = torch.nn.functional.one_hot(rollout.hard, context.rollout.top_k).double().requires_grad_()
    return rollout, reward.score(completions_of(policy, rollout, weights)), weights


def test_values_are_the_rewards_own_and_gradients_the_fits(taught):
    policy, reward, context = taught
    rollout, scores, weights = see(policy, context, reward, 9)
    assert scores.tolist() == pytest.approx(vowels(completions_of(policy, rollout).texts))
    assert reward.score(completions_of(policy, rollout)).tolist() == pytest.approx(scores.tolist())
    (gradient,) = torch.autograd.grad(scores.sum(), weights)
    (expected,) = torch.autograd.grad(reward.estimate(completions_of(policy, rollout, weights)).sum(), weights)
    assert torch.equal(gradient, expected)
    assert gradient.norm() > 0


def test_it_never_learns_from_the_step_whose_gradient_is_taken(taught):
    policy, reward, context = taught
    before = reward.slope.clone()
    see(policy, context, reward, 9)
    assert torch.equal(reward.slope, before)
    found = reward.learn()
    assert not torch.equal(reward.slope, before)
    assert found["surrogate_rows"] == 64.0
    assert found["surrogate_r2"] < 1


def test_what_was_only_measured_is_not_learned_from(taught):
    policy, reward, context = taught
    before = reward.slope.clone()
    see(policy, context, reward, 9)
    reward.discard()
    assert reward.learn() == {}
    assert torch.equal(reward.slope, before)


def test_a_calibration_batch_is_not_learned_from(taught):
    """The fit's rows are the step's own completions, with a calibrated gain and without."""
    policy, reward, _ = taught
    rows = []
    for gain in ("none", "calibrated"):
        module = make_module(GradeGradient, policy, {"temperature": lambda step: 1.0, "reward_gain": gain}, reward=reward)
        gradient(module, make_batch(policy, step=7))
        rows.append(len(torch.cat([pooled for pooled, _ in reward._fresh])))
        reward.discard()
    assert rows[0] == rows[1] == len(make_batch(policy))
    assert float(module.method.calibration.average.means[1].norm()) > 0


def test_the_ring_forgets_the_oldest(taught):
    policy, reward, context = taught
    assert int(reward.seen) == 64 == reward.capacity
    first = reward.inputs[0].clone()
    see(policy, context, reward, 9)
    reward.learn()
    assert not torch.equal(reward.inputs[0], first)
    assert int(reward.seen) == 80


def test_the_method_is_its_two_parts(taught):
    """Straight-through through r^ (with the KL) plus RLOO on r - r^ (without), each by itself from the same rollouts."""
    policy, reward, context = taught
    rollouts, weights = [rollout_of(policy, context, 5)], list(policy.trainable().values())
    totals = Totals(len(rollouts[0]), rollouts[0].tokens)
    options = {"temperature": lambda step: 1.0}
    gradients = []
    rest = make_context(policy, RestReward(reward), kl_coef=0.0)
    for method in (
        ResidualGradient(context, **options), GradeGradient(context, diagnostics_every=0, **options), RLOOGradient(rest),
    ):  # fmt: skip
        method.accumulate(rollouts, totals, Meter(), 1)
        gradients.append(take_gradient(weights))
    both, pathwise, policy_gradient = gradients
    torch.testing.assert_close(both, pathwise + policy_gradient, rtol=1e-9, atol=1e-12)
    assert min(pathwise.norm(), policy_gradient.norm()) > 0


def parts_of(policy, rollouts, *methods):
    """Gradient of each method's own from the same rollouts."""
    totals, found = Totals(sum(map(len, rollouts)), sum(rollout.tokens for rollout in rollouts)), []
    for method in methods:
        method.accumulate(rollouts, totals, Meter(), 1)
        found.append(take_gradient(list(policy.trainable().values())))
    return found


def test_a_gain_is_of_the_surrogates_part_alone(taught):
    """Neither the KL nor what RLOO credits of the rest is scaled."""
    policy, reward, context = taught
    rollouts, options = [rollout_of(policy, context, 5)], {"temperature": lambda step: 1.0}
    with_kl, without = (make_context(policy, reward, kl_coef=beta) for beta in (0.3, 0.0))
    whole, plain, of_reward = parts_of(
        policy, rollouts, ResidualGradient(with_kl, **options, reward_gain=2.5), ResidualGradient(with_kl, **options),
        GradeGradient(without, diagnostics_every=0, **options),
    )  # fmt: skip
    assert (whole - plain - 1.5 * of_reward).norm() < 1e-3 * of_reward.norm()  # the base rounds to fp32


def test_a_calibrated_gain_learns_from_rloo_of_the_surrogate_itself(taught):
    """Both means are of r^'s gradients: none where r^ is flat, whatever the reward; the sum is the plain one while nothing is known."""
    policy, reward, context = taught
    rollouts, options = [rollout_of(policy, context, step, repeat=2) for step in range(4)], {"temperature": lambda step: 1.0}
    method = ResidualGradient(context, **options, reward_gain="calibrated", completions_per_prompt=2)
    found, plain = parts_of(policy, rollouts, method, ResidualGradient(context, **options, completions_per_prompt=2))
    assert (found - plain).norm() < 1e-5 * plain.norm()
    (own,) = parts_of(policy, rollouts, RLOOGradient(make_context(policy, EstimatedReward(reward), kl_coef=0.0), completions_per_prompt=2))
    means = method.pathwise.calibration.average.means
    assert (means[0] - 0.05 * own).norm() < 1e-4 * means[0].norm()
    assert means[1].norm() > 0
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):  # evidence of a sure gain of 4
        h = 1 + 0.01 * torch.randn(means.shape[1], generator=generator, dtype=means.dtype)
        method.pathwise.calibration._learn(4 * h, h)
    scaled, of_reward = parts_of(policy, rollouts, method, GradeGradient(
        make_context(policy, reward, kl_coef=0.0), diagnostics_every=0, **options))  # fmt: skip
    assert (scaled - plain - 3 * of_reward).norm() < 0.02 * of_reward.norm()
    reward.slope.zero_()
    flat = ResidualGradient(context, **options, reward_gain="calibrated", completions_per_prompt=2)
    parts_of(policy, rollouts, flat)
    assert float(flat.pathwise.calibration.average.means.abs().sum()) == 0


def test_residual_needs_a_surrogate(model_folder):
    _, policy = make_policy(model_folder)
    with pytest.raises(ValueError, match="use reward=surrogate"):
        make_module(ResidualGradient, policy, {"temperature": lambda step: 1.0})


OPTIONS = ["reward=surrogate", "reward.of.function=tests.rewards.test_surrogate:vowels", "reward.least=4", "effective_batch_size=8"]


@pytest.mark.parametrize("method", ["grade_ste", "residual"])
def test_a_run_resumes_with_what_the_surrogate_learned(method, tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    options = [*OPTIONS, f"method={method}", "evaluation.test=false", "run.checkpoint_every=1"]
    whole = run_small(tmp_path / "whole", *options, "max_steps=4")
    run_small(tmp_path / "cut", *options, "max_steps=4")
    # What a kill after step 3 leaves behind.
    checkpoint = torch.load(tmp_path / "cut" / "checkpoints" / "resume.ckpt", weights_only=True)
    assert int(checkpoint["state_dict"]["_scored_by.seen"]) == 32
    assert whole["reward_fingerprint"] is not None
    rows = (tmp_path / "whole" / "metrics.csv").read_text().splitlines()
    assert {"train/surrogate_r2", "train/surrogate_rows"} <= set(rows[0].split(","))


def test_bad_values_are_named(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    with pytest.raises(ValueError, match="do not fit into capacity=8"):
        run_small(tmp_path / "a", *OPTIONS, "reward.least=16", "reward.capacity=8")
    with pytest.raises(ValueError, match="this method adds what a surrogate leaves"):
        run_small(tmp_path / "b", "method=residual")
    with pytest.raises(ValueError, match=r"reward.of.function"):
        run_small(tmp_path / "c", "reward=surrogate", "method=grade_ste")
