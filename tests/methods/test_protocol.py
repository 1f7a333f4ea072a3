"""Each key of the protocols does what it says, alone."""

import dataclasses

import pytest
import torch
from transformers import TopPLogitsWarper

from grade_lightning.chain.parallel import hard_hidden
from grade_lightning.estimators import sampled_kl
from grade_lightning.methods import PPOGradient, ReinforceGradient
from grade_lightning.methods.base import Totals
from grade_lightning.methods.meter import Meter
from grade_lightning.rollout.sampling import nucleus
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade, make_module, one_update, rollouts_of, totals_of, train_steps


def ppo(policy, options=None, **settings):
    return make_module(PPOGradient, policy, settings, **(options or {}))


def reinforce(policy, settings=None, **options):
    return make_module(ReinforceGradient, policy, settings or {}, **options)


def experience_of(module, batch):
    """What PPO fixes over its epochs, for one whole batch."""
    rollouts = rollouts_of(module, batch)
    return module.method.experience(rollouts, totals_of(rollouts), Meter())


def short_rows(policy, monkeypatch):
    """Rows of different lengths: every fourth token ends a completion."""
    monkeypatch.setattr(policy, "eos_ids", tuple(range(0, 320, 4)))


def test_gae_axis_batch_moves_only_the_last_column(policy64):
    """With values of 0 the terminal reward must reach earlier tokens; along the rows of the batch it cannot."""
    batch = make_batch(policy64)
    time, rows = (experience_of(ppo(policy64, gae_axis=axis, whiten_advantages=False), batch)[0].advantages for axis in ("time", "batch"))
    assert (time != 0).all()
    assert (rows[:, :-1] == 0).all()
    assert (rows[:, -1] != 0).all()


def test_terminal_reward_on_the_last_column_is_lost_by_rows_that_ended_early(policy64, monkeypatch):
    short_rows(policy64, monkeypatch)
    for place, lost in (("last_token", False), ("last_column", True)):
        method = ppo(policy64, terminal_reward=place, whiten_advantages=False)
        experience = experience_of(method, make_batch(policy64, step=2))[0]
        mask = experience.sampled.rollout.mask
        early = mask.sum(1) < mask.sum(1).max()
        assert early.any()
        assert bool(experience.returns[early].abs().sum() == 0) == lost
        assert (experience.returns[~early].abs().sum(1) > 0).all()


def test_bf16_value_head_at_a_small_rate_hardly_moves(policy64):
    changed = {}
    for dtype in ("fp32", "bf16"):
        module = ppo(policy64, value_head_dtype=dtype, value_lr=1e-5)
        head = module.method.value_head
        before = head.weight.detach().clone()
        one_update(module, make_batch(policy64))
        changed[dtype] = float((head.weight != before).float().mean())
    assert changed["fp32"] > 0.95
    assert changed["bf16"] < 0.5


def test_normalising_over_a_batch_of_two_leaves_only_a_sign(policy64):
    method = reinforce(policy64, {"advantage_normalisation": "batch"}).method
    for pair in ([0.1, 0.9], [0.5, 0.4], [0.0, 1.0]):  # nearer ones would show the epsilon that guards against equal scores
        assert method.advantages(torch.tensor(pair, dtype=torch.float64)).abs().tolist() == pytest.approx([2**-0.5] * 2, rel=1e-6)
    with pytest.raises(ValueError, match="one of none, batch"):
        reinforce(policy64, {"advantage_normalisation": "group"})


def test_baseline_is_used_before_it_is_updated(policy64):
    module = reinforce(policy64, {"baseline_momentum": 0.9})
    module.last_evaluation = {"reward_mean": 0.4}
    module.on_fit_start()
    method = module.method
    assert method.advantages(torch.tensor([0.5, 0.7])).tolist() == pytest.approx([0.1, 0.3])
    assert float(method.baseline) == pytest.approx(0.9 * 0.4 + 0.1 * 0.6)


def test_shifted_kl_is_above_zero_for_equal_models(model_folder, data_module):
    _, policy = make_policy(model_folder, precision="fp32", perturb=0)
    row = train_steps(make_grade(policy, kl_alignment="shifted"), data_module, 1)[0]
    assert abs(row["kl"]) < 1e-6
    assert row["kl_shifted"] > 0.1


def test_without_stop_at_eos_a_completion_goes_on(policy64, monkeypatch):
    short_rows(policy64, monkeypatch)
    batch = make_batch(policy64, step=2)
    stopping, going_on = (make_grade(policy64, stop_at_eos=stop).sample_effective_batch(batch)[0] for stop in (True, False))
    assert not stopping.mask.all()
    assert going_on.mask.all()
    assert torch.isin(going_on.completion_ids, torch.tensor(policy64.eos_ids)).any(dim=1).any()


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_last_token_context_is_what_transformers_does_in_train_mode(folder, request):
    """The accident itself: gradient checkpointing and train mode make ``generate`` drop its cache.  Greedy, unpadded, no dropout."""
    _, policy = make_policy(request.getfixturevalue(folder))
    batch = make_batch(policy)[:1]
    method = make_grade(policy, tokens=8, early=0, context="last_token", stop_at_eos=False)
    from grade_lightning.rollout.sampling import sample

    settings = method.context.rollout
    ours = sample(policy, batch, torch.zeros(1, 8, settings.top_k, dtype=torch.float64), settings).completion_ids[0]
    full = sample(
        policy, batch, torch.zeros(1, 8, settings.top_k, dtype=torch.float64), dataclasses.replace(settings, context="full")
    ).completion_ids[0]
    assert not torch.equal(ours, full)
    ids = [int(ours[0])]
    with torch.no_grad():
        for t in range(1, 8):
            position = torch.tensor([[int(batch.mask.sum()) + t - 1]])
            logits = policy.lm(input_ids=torch.tensor([[ids[-1]]]), position_ids=position).logits[0, -1]
            ids.append(int(logits.argmax()))
    assert ours.tolist() == ids
    lm = policy.lm
    lm.gradient_checkpointing_enable()
    lm.train()
    for module in lm.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    accident = lm.generate(
        input_ids=batch.ids, attention_mask=batch.mask.long(), do_sample=False, max_new_tokens=8, min_new_tokens=8,
        suppress_tokens=None, pad_token_id=policy.pad_id,
    )[0, batch.ids.shape[1] :]  # fmt: skip
    assert accident.tolist() == ids


def test_nucleus_is_the_one_of_transformers():
    logits = torch.randn(50, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64).sort(descending=True).values * 2
    kept = TopPLogitsWarper(top_p=0.9)(None, logits).isfinite()
    assert torch.equal(nucleus(logits, 0.9), kept)
    assert kept.sum(1).min() < kept.sum(1).max() < 24


def test_matched_logprobs_are_those_of_the_sampler(policy64):
    """Exponentiated they sum to 1 over what could be drawn, and the full ones do not."""
    module = reinforce(policy64, top_p=0.8, sampling_temperature=0.6)
    method, rollout = module.method, module.sample_effective_batch(make_batch(policy64))[0]
    sampled = method.read(rollout, Meter())
    hidden = hard_hidden(policy64, rollout)
    logits = policy64.logits(hidden)
    by_hand = torch.log_softmax((logits.gather(-1, rollout.indices) / 0.6).masked_fill(~rollout.support, -torch.inf), -1)
    assert not rollout.support.all()
    drawn = by_hand.gather(-1, rollout.hard[..., None])[..., 0]
    matched = method.statistics(sampled, hidden)
    assert torch.allclose(matched.logprobs[rollout.mask], drawn[rollout.mask])
    distribution = torch.distributions.Categorical(logits=by_hand)
    assert torch.allclose(matched.entropy[rollout.mask], distribution.entropy()[rollout.mask])
    full = reinforce(policy64, top_p=0.8, sampling_temperature=0.6, logprobs="full").method.statistics(sampled, hidden).logprobs
    plain = torch.log_softmax(logits, -1).gather(-1, rollout.completion_ids[..., None])[..., 0]
    assert torch.allclose(full[rollout.mask], plain[rollout.mask])
    assert not torch.allclose(full[rollout.mask], drawn[rollout.mask])


@pytest.mark.parametrize("make", [ReinforceGradient, PPOGradient])
def test_kl_enters_where_it_is_told_to(policy64, make):
    batch = make_batch(policy64)

    def found(**options):
        return gradient(make_module(make, policy64, {}, **options), batch)

    without = found(kl_coef=0.0)
    assert torch.equal(found(kl_coef=0.5, kl_in="none"), without)
    loss, reward = found(kl_coef=0.5, kl_in="loss"), found(kl_coef=0.5, kl_in="reward", kl_estimator="k1")
    assert (loss - without).norm() > 1e-3 * without.norm()
    assert (reward - without).norm() > 1e-3 * without.norm()
    assert (reward - loss).norm() > 1e-3 * without.norm()


@pytest.mark.parametrize("estimator", ["exact", "k2", "k3"])
def test_kl_in_the_reward_needs_the_log_ratio(policy64, estimator):
    """The exact KL of a token's own step is a constant given its prefix: as a reward it has no gradient there."""
    with pytest.raises(ValueError, match="kl_estimator=k1"):
        reinforce(policy64, kl_in="reward", kl_estimator=estimator)


def test_shifted_kl_is_refused_where_nothing_measures_it(policy64):
    with pytest.raises(ValueError, match="leave it at correct"):
        reinforce(policy64, kl_alignment="shifted")


@pytest.mark.parametrize("estimator", ["k1", "k1_mean"])
def test_kl_in_the_reward_by_each_estimate(policy64, estimator):
    module = reinforce(policy64, kl_coef=0.5, kl_in="reward", kl_estimator=estimator, kl_reduction="sequence")
    method, rollout = module.method, module.sample_effective_batch(make_batch(policy64))[0]
    sampled = method.read(rollout, Meter())
    found = method.statistics(sampled, hard_hidden(policy64, rollout))
    penalty = method.kl_penalty(found, rollout, Totals(4, rollout.tokens)).sum(1)
    if estimator == "k1_mean":
        expected = torch.stack([row[mask].mean() for row, mask in zip(found.log_ratio, rollout.mask, strict=True)])
    else:
        expected = (sampled_kl(found.log_ratio, estimator) * rollout.mask).sum(1)
    assert torch.allclose(penalty, 0.5 * expected)


def test_grade_refuses_a_kl_it_cannot_differentiate(policy64):
    for options in ({"kl_in": "reward"}, {"kl_estimator": "k3"}):
        with pytest.raises(ValueError, match="differentiates the exact KL"):
            make_grade(policy64, **options)
    with pytest.raises(ValueError, match="one of loss, reward, none"):
        make_grade(policy64, kl_in="both")


def test_dropout_in_rollouts_changes_what_is_sampled(model_folder):
    _, policy = make_policy(model_folder, dropout=0.5)
    batch = make_batch(policy)
    clean, noisy = (make_grade(policy, dropout_in_rollouts=on, tokens=16).sample_effective_batch(batch)[0] for on in (False, True))
    assert not torch.equal(clean.completion_ids, noisy.completion_ids)


def test_completion_scope_trains_on_the_completion_and_evaluates_with_the_prompt(policy64):
    reward = make_grade(policy64, scope="completion").context.reward
    assert reward.scope == "completion"
    assert reward.scoped("full").scope == "full"


def test_target_kl_ends_the_epochs(model_folder, data_module):
    found = {}
    for target in (None, 1e-6):  # far above the rounding of equal policies, far below what an update at this rate does
        _, policy = make_policy(model_folder, precision="fp32")
        found[target] = train_steps(ppo(policy, {"lr": 1e-2}, target_kl=target), data_module, 1)[0]
    assert found[None]["updates"] == 4
    assert found[1e-6]["updates"] == 1
    assert found[None]["approx_kl"] > 1e-4
