"""The gain of the reward's gradient in training: what it learns from, and that it scales nothing else."""

from __future__ import annotations

import pytest
import torch

from grade_lightning.estimators import gumbel_noise
from grade_lightning.methods import GradeGradient, GRPOGradient, PPOGradient, ReinforceGradient, RLOOGradient
from grade_lightning.methods.gradients import Apart, take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import Scale, scale_of
from grade_lightning.rollout.noise import keyed_generator
from grade_lightning.rollout.sampling import sample
from tests.conftest import make_batch, make_policy
from tests.entry import run_small
from tests.methods.harness import gradient, make_grade, make_module, one_update, rollouts_of, totals_of


def test_a_number_scales_the_reward_and_not_the_kl(policy64):
    batch = make_batch(policy64)
    reward, whole = (gradient(make_grade(policy64, kl_coef=beta), batch) for beta in (0.0, 0.3))
    module = make_module(GradeGradient, policy64, {"temperature": lambda step: 1.0, "tol": 1e-12, "reward_gain": 3.0}, kl_coef=0.3)
    expected = 3 * reward + (whole - reward)
    assert (gradient(module, batch) - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (GradeGradient, {"temperature": lambda step: 1.0, "tol": 1e-12}), (RLOOGradient, {"completions_per_prompt": 2}),
        (ReinforceGradient, {}), (GRPOGradient, {"completions_per_prompt": 2}), (PPOGradient, {}),
    ],
)  # fmt: skip
def test_parts_add_up_and_the_kls_part_is_the_kls(policy64, kind, settings):
    """The gradient of the whole less that without a KL, for every method."""
    batch, weights = make_batch(policy64), list(policy64.trainable().values())
    with_kl, without = (make_module(kind, policy64, settings, kl_coef=beta) for beta in (0.5, 0.0))
    rollouts = rollouts_of(with_kl, batch)
    found = []
    for module, apart in ((with_kl, None), (without, None), (with_kl, Apart(weights))):
        module.method.hold_baseline(0.5)
        module.method.apart = apart
        module.method.accumulate(rollouts, totals_of(rollouts), Meter(), 1)
        found.append(take_gradient(weights))
    whole, reward, together = found
    torch.testing.assert_close(together, whole, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(apart.reward, reward, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(apart.kl, whole - reward, rtol=1e-4, atol=1e-6)
    assert (whole - reward).norm() > 0


OWN = ("completions_per_prompt", "straight_through")


def calibrated(policy, **options):
    own = {name: options.pop(name) for name in list(options) if name.startswith("gain_") or name in OWN}
    settings = {"temperature": lambda step: 1.0, "tol": 1e-12, "reward_gain": "calibrated", "completions_per_prompt": 2, **own}
    return make_module(GradeGradient, policy, settings, **options)


@pytest.mark.parametrize("scope", ["global", "layer"])
def test_the_first_step_is_not_scaled_and_later_ones_by_earlier_evidence(policy64, scope):
    module = calibrated(policy64, gain_scope=scope, kl_coef=0.3)
    batch = make_batch(policy64)
    plain = gradient(make_grade(policy64, kl_coef=0.3), batch.repeat(2))
    first = gradient(module, batch)
    assert (first - plain).norm() < 1e-6 * plain.norm()
    calibration = module.method.calibration
    # Evidence of a sure gain of 4 for every part, and of 8 for the last one.
    generator, sizes = torch.Generator().manual_seed(0), calibration.average.sizes
    for _ in range(20):
        h = 1 + 0.01 * torch.randn(sum(sizes), generator=generator, dtype=torch.float64)
        g = 4 * h
        g[-sizes[-1] :] *= 2 if scope == "layer" else 1
        calibration._learn(g, h)
    gains = calibration.average.estimate().trusted
    assert gains.tolist() == pytest.approx([4.0] * (len(sizes) - 1) + [8.0 if scope == "layer" else 4.0], rel=0.02)
    reward = gradient(make_grade(policy64, kl_coef=0.0), batch.repeat(2))
    scaled = torch.cat([gain * part for gain, part in zip(gains, reward.split(sizes), strict=True)])
    expected = scaled + (plain - reward)
    assert (gradient(module, batch) - expected).norm() < 1e-6 * expected.norm()


@pytest.mark.parametrize("accumulation", [2, 8])
def test_it_is_exact_under_any_accumulation(policy64, accumulation):
    one, many = (calibrated(policy64, grad_accumulation=count) for count in (1, accumulation))
    batch = make_batch(policy64)
    for _ in range(2):
        first, second = gradient(one, batch), gradient(many, batch)
        torch.testing.assert_close(first, second, rtol=1e-6, atol=1e-9)
    for name in ("state", "means"):
        found, expected = (getattr(module.method.calibration.average, name) for module in (one, many))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)
        assert float(found.abs().sum()) > 0


def test_the_steps_own_rollouts_teach_what_both_estimators_make_of_them(policy64):
    module, batch = calibrated(policy64, kl_coef=0.3, gain_momentum=0.8), make_batch(policy64)
    rollouts, weights = rollouts_of(module, batch), list(policy64.trainable().values())
    module.method.accumulate(rollouts, totals_of(rollouts), Meter(), 1)
    take_gradient(weights)
    for kind, settings, found in (
        (RLOOGradient, {"completions_per_prompt": 2}, module.method.calibration.average.means[0]),
        (GradeGradient, {"temperature": lambda step: 1.0, "tol": 1e-12}, module.method.calibration.average.means[1]),
    ):
        make_module(kind, policy64, settings, kl_coef=0.0).method.accumulate(rollouts, totals_of(rollouts), Meter(), 1)
        expected = take_gradient(weights)
        assert (5 * found - expected).norm() < 1e-6 * expected.norm()


def test_a_calibration_batch_of_its_own_leaves_the_step_alone(policy64):
    """One completion a prompt: the step's gradient is GRADE-STE's, and evidence comes from other completions."""
    module = calibrated(policy64, completions_per_prompt=1, kl_coef=0.3)
    batch = make_batch(policy64)
    plain = gradient(make_grade(policy64, kl_coef=0.3), batch)
    assert (gradient(module, batch) - plain).norm() < 1e-9 * plain.norm()
    assert float(module.method.calibration.average.means.norm(dim=1).min()) > 0


def test_soft_grade_is_compared_on_the_same_noise(policy64):
    """RLOO's gradient is the one that a straight-through method's own batch has, soft GRADE's that of its own samples of that noise."""
    hard, soft = (calibrated(policy64, completions_per_prompt=1, straight_through=hard, kl_coef=0.3) for hard in (True, False))
    batch = make_batch(policy64)
    plain = gradient(make_grade(policy64, straight_through=False, kl_coef=0.3), batch)
    assert (gradient(soft, batch) - plain).norm() < 1e-6 * plain.norm()
    gradient(hard, batch)
    known, means = (module.method.calibration.average.means for module in (hard, soft))
    torch.testing.assert_close(means[0], known[0], rtol=1e-6, atol=1e-12)
    context, own = soft.method.context, []
    method = make_grade(policy64, straight_through=False, kl_coef=0.0).method
    for row in range(len(batch)):
        generator = keyed_generator("reward gain", context.seed, batch.step, int(batch.rows[row]))
        noise = gumbel_noise((4, context.rollout.max_new_tokens, context.rollout.top_k), generator=generator)
        rollout = sample(policy64, batch[row : row + 1].repeat(4), noise, context.rollout, soft=method.relaxation(1))
        method.accumulate([rollout], totals_of([rollout]), Meter(), 1)
        own.append(take_gradient(list(policy64.trainable().values())))
    expected = 0.05 * torch.stack(own).sum(dim=0)
    assert (means[1] - expected).norm() < 1e-6 * expected.norm()
    assert (known[1] - expected).norm() > 0.01 * expected.norm()


def test_soft_grade_in_groups_has_a_batch_of_its_own_too(policy64):
    module, batch = calibrated(policy64, straight_through=False), make_batch(policy64)
    plain = gradient(make_grade(policy64, straight_through=False), batch.repeat(2))
    assert (gradient(module, batch) - plain).norm() < 1e-6 * plain.norm()
    assert float(module.method.calibration.average.means.norm(dim=1).min()) > 0


def test_the_state_is_part_of_checkpoints(model_folder):
    _, policy = make_policy(model_folder)
    module = calibrated(policy)
    for _ in range(2):
        one_update(module, make_batch(policy))
    kept = module.state_dict()
    assert all(float(kept[f"method.calibration.average.{name}"].abs().sum()) > 0 for name in ("state", "means"))
    other = calibrated(make_policy(model_folder)[1])
    other.load_state_dict(kept, strict=False)
    for name in ("state", "means"):
        assert torch.equal(getattr(other.method.calibration.average, name), getattr(module.method.calibration.average, name))


def test_a_checkpoint_that_names_the_state_as_earlier_versions_did_is_read(model_folder):
    _, policy = make_policy(model_folder)
    module = calibrated(policy)
    one_update(module, make_batch(policy))
    kept = module.state_dict()
    former = {name.replace("calibration.average.", "calibration."): value for name, value in kept.items()}
    assert former.keys() != kept.keys()
    module.on_load_checkpoint({"state_dict": former})
    assert former.keys() == kept.keys()


@pytest.mark.parametrize("kind", [GRPOGradient, PPOGradient])
def test_matched_kl_has_the_weight_that_it_has_elsewhere(policy64, kind):
    """Reward gradient and KL gradient have the ratio that the unnormalised estimator's have."""
    batch, weights = make_batch(policy64), list(policy64.trainable().values())
    settings = {"completions_per_prompt": 2} if kind is GRPOGradient else {}
    batch = batch if kind is GRPOGradient else batch.repeat(2)
    lengths = []
    for match in (False, True):
        module = make_module(kind, policy64, {**settings, "match_kl": match}, kl_coef=0.5)
        rollouts = rollouts_of(module, batch)
        apart = module.method.apart = Apart(weights)
        meter = Meter()
        module.method.accumulate(rollouts, totals_of(rollouts), meter, 1)
        take_gradient(weights)
        scale = meter.compute()["reward_scale"]
        lengths.append(float(apart.kl.norm()))
    assert lengths[1] == pytest.approx(scale * lengths[0], rel=1e-5)
    assert scale != pytest.approx(1, abs=0.05)


def test_ppos_scale_does_not_take_control_variates_for_lost_signal(policy64):
    """With gamma = lambda = 1 a value that knows most of the reward makes advantages smaller and whitening stronger: the scale grows."""
    scales = []
    for known in (0.0, 0.8):
        module = make_module(PPOGradient, policy64, {"gamma": 1.0, "lam": 1.0})
        method, meter = module.method, Meter()
        scores = torch.tensor([0.1, 0.9, 0.4, 0.6], dtype=torch.float64)
        mask, last = torch.ones(4, 5), torch.full((4,), 5)
        advantages = ((1 - known) * (scores - scores.mean()))[:, None].expand(4, 5)
        method._measure_scale(advantages, scores, mask, last, meter)
        scales.append(meter.compute()["reward_scale"])
    assert scales[0] == pytest.approx(float(1 / (scores.std(correction=0) * 5)))  # whitening, and a mean over tokens
    assert scales[1] == pytest.approx(5 * scales[0])


def test_steps_without_a_reward_signal_keep_the_scale(policy64):
    method = make_module(GRPOGradient, policy64, {"completions_per_prompt": 2}).method
    method.note_scale(None, 0.125)
    assert method.reward_scale == 0.125
    method.note_scale(Scale(0.06, 1.0), 0.125)
    method.note_scale(None, 0.125)
    assert method.reward_scale == method.average_scale == pytest.approx(0.06)
    method.note_scale(Scale(-1.0, 1.0), 0.125)
    assert method.reward_scale == method.average_scale == 0.0  # a KL is never maximised


def test_a_batch_whose_rewards_hardly_differ_does_not_decide_what_the_kl_weighs(policy64):
    """Divided by its own spread its gradient is long beside the unnormalised one; the average is of lengths over lengths."""
    method = make_module(GRPOGradient, policy64, {"completions_per_prompt": 2, "match_kl": True}).method
    tokens, told = torch.full((4,), 8.0), torch.tensor([0.4, -0.4, 0.3, -0.3])
    for advantages in (told, 1e-4 * told, 2 * told):
        method.note_scale(scale_of(torch.sign(advantages) / 8, advantages, tokens), 1.0)
        if float(advantages[0]) < 1e-3:
            assert method.reward_scale == pytest.approx(1e4 * 0.35 / 0.125 / 8)
            assert method.average_scale == pytest.approx(1.95 / 0.95 * 0.35 / 0.125 / 8, rel=1e-3)
    along = [(0.95**n) * 0.35 / 0.125**0.5 for n in (2, 1, 0)]  # length of the signs along A: the same for all, by age
    lengths = [0.125**0.5 * (0.95**n) * a for n, a in ((2, 1), (1, 1e-4), (0, 2))]
    assert method.average_scale == pytest.approx(sum(along) / sum(lengths) / 8)
    again = make_module(GRPOGradient, policy64, {"completions_per_prompt": 2, "match_kl": True}).method
    again.load_state_dict(method.state_dict())
    assert again.average_scale == method.average_scale
    method.by_step = True
    assert method.average_scale == method.reward_scale != again.average_scale


def test_measuring_parts_changes_nothing_of_the_step(policy64):
    """The update and all that is measured of it are those of a step without."""
    batch, found = make_batch(policy64), []
    for apart in (None, Apart(policy64.trainable().values())):
        module = make_grade(policy64, kl_coef=2.0)
        module.method.apart, meter = apart, Meter()
        rollouts = rollouts_of(module, batch)
        module.method.accumulate(rollouts, totals_of(rollouts), meter, 1)
        found.append((take_gradient(list(policy64.trainable().values())), meter.compute()))
    assert (found[0][0] - found[1][0]).norm() < 1e-6 * found[0][0].norm()  # Qwen3's norms round to fp32
    assert found[0][1] == pytest.approx(found[1][1], rel=1e-5, abs=1e-6)


def test_the_alarm_and_the_study_do_not_teach_the_gain(policy64):
    module = calibrated(policy64, completions_per_prompt=1)
    from grade_lightning.study.units import UnitSampler

    batch = make_batch(policy64)[:1].repeat(4)
    UnitSampler(module.method, part="reward").unit(batch, gumbel_noise((4, 8, 24), generator=torch.Generator().manual_seed(0)))
    assert float(module.method.calibration.average.means.abs().sum()) == 0


def test_scale_of_dr_grpo_is_known(policy64):
    """Dr. GRPO divides by T and compares with the group's mean: its scale is (G - 1) / (G T)."""
    module = make_module(GRPOGradient, policy64, {"completions_per_prompt": 2, "variant": "dr_grpo"})
    meter, rollouts = Meter(), rollouts_of(module, make_batch(policy64))
    module.method.accumulate(rollouts, totals_of(rollouts), meter, 1)
    assert meter.compute()["reward_scale"] == pytest.approx(0.5 / 8)


def test_runs_log_parts_entropy_and_gain(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    options = ["effective_batch_size=8", "method.reward_gain=calibrated", "method.completions_per_prompt=2", "evaluation.test=false"]
    run_small(tmp_path / "run", *options, "max_steps=3")
    header, first, *_ = (tmp_path / "run" / "metrics.csv").read_text().splitlines()
    row = dict(zip(header.split(","), first.split(","), strict=True))
    assert float(row["train/reward_grad_norm"]) > 0
    assert float(row["train/kl_grad_norm"]) >= 0
    assert float(row["train/entropy"]) > 0
    assert float(row["train/reward_gain"]) == 1.0
    with pytest.raises(ValueError, match="reward_gain=calibrated"):
        run_small(tmp_path / "hybrid", "method=hybrid", "method.reward_gain=calibrated")
    with pytest.raises(ValueError, match="gain_momentum"):
        run_small(tmp_path / "short", "method.reward_gain=calibrated", "method.gain_momentum=0.5")
