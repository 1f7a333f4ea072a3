"""The gain of the reward's gradient: what it is an estimate of, when it is trusted, and that it scales nothing else."""

from __future__ import annotations

import math

import pytest
import torch

from grade_lightning.estimators import GainAverage, PairedSums, chunk_moments, gumbel_noise
from grade_lightning.methods import GradeGradient, GRPOGradient, PPOGradient, ReinforceGradient, RLOOGradient
from grade_lightning.methods.gradients import Apart, take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import Scale, scale_of
from grade_lightning.rollout.noise import keyed_generator
from grade_lightning.rollout.sampling import sample
from tests.conftest import make_batch, make_policy
from tests.entry import run_small
from tests.methods.harness import gradient, make_grade, make_module, one_update, rollouts_of, totals_of


def test_sums_give_the_moments_of_the_chunks_themselves():
    g, h = torch.randn(2, 5, 30, dtype=torch.float64)
    sums, first, second = PairedSums([10, 20]), PairedSums([10, 20]), PairedSums([10, 20])
    for row in range(5):
        sums.add(g[row], h[row])
        (first if row < 2 else second).add(g[row], h[row])
    for part, columns in enumerate((slice(0, 10), slice(10, 30))):
        expected = chunk_moments(g[:, columns], h[:, columns])
        for found in (sums.moments()[part], first.merged(second).moments()[part]):
            torch.testing.assert_close(found.signal, expected.signal)
            torch.testing.assert_close(found.total, expected.total)


def drawn(
    steps: int, *, length: float, noise: float, seed: int = 0, cosine: float = 1.0, form: str = "regression", turn: float = 0.0
) -> GainAverage:
    """Steps of g = mu + noise and of h with the given length and cosine and less noise, in 400 dimensions; mu turns from step to step."""
    generator = torch.Generator().manual_seed(seed)
    mu, other, third = torch.linalg.qr(torch.randn(400, 3, generator=generator, dtype=torch.float64))[0].T
    average = GainAverage([400], momentum=0.98, form=form)
    for step in range(steps):
        now = math.cos(turn * step) * mu + math.sin(turn * step) * third
        g = now + noise * torch.randn(400, generator=generator, dtype=torch.float64)
        direction = cosine * now + (1 - cosine**2) ** 0.5 * other
        average.add(g, length * (direction + 0.1 * noise * torch.randn(400, generator=generator, dtype=torch.float64)))
    return average


@pytest.mark.parametrize(("form", "expected"), [("regression", 0.8 / 0.25), ("projection", 1 / (0.8 * 0.25))])
def test_it_finds_what_is_missing(form, expected):
    """A step's noise is six times as long as its mean."""
    found = drawn(400, length=0.25, noise=0.3, cosine=0.8, form=form)
    assert float(found.estimate().value) == pytest.approx(expected, rel=0.15)
    assert float(found.estimate().trusted) == pytest.approx(expected, rel=0.25)
    assert found.cosine == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(("form", "cosine", "expected"), [("regression", 1.0, 4.0), ("projection", 1.0, 4.0), ("projection", 0.5, 8.0)])
def test_a_gradient_that_turns_leaves_the_gain(form, cosine, expected):
    """Two right angles over the run: directions of earlier steps lag behind, and g and h are compared along the same ones."""
    found = drawn(300, length=0.25, noise=0.2, form=form, cosine=cosine, turn=math.pi / 300)
    assert float(found.estimate().value) == pytest.approx(expected, rel=0.2)


def test_it_needs_fewer_steps_than_products_within_them():
    """Gains from the squared length of a step's own mean, chunks against chunks, scatter many times as much."""
    generator, within, along = torch.Generator().manual_seed(0), [], []
    for _ in range(40):
        average, products = GainAverage([400], momentum=0.98), torch.zeros(2, 2, dtype=torch.float64)
        for _ in range(20):
            g = torch.nn.functional.pad(torch.ones(4, 1), (0, 399)) + 0.6 * torch.randn(4, 400, generator=generator)
            h = 0.25 * torch.nn.functional.pad(torch.ones(4, 1), (0, 399)) + 0.015 * torch.randn(4, 400, generator=generator)
            average.add(g.mean(dim=0), h.mean(dim=0))
            products += chunk_moments(g, h).signal
        within.append(float(products[0, 0] / products[0, 1]))
        along.append(float(average.estimate().value))
    assert torch.tensor(along).median() == pytest.approx(4, rel=0.1)
    spread = [float(torch.tensor(found).quantile(0.9) - torch.tensor(found).quantile(0.1)) for found in (along, within)]
    assert spread[0] < 0.6 * spread[1]


def test_the_error_bar_is_that_of_repeated_experiments():
    """Over many runs, the interval of one standard error holds the truth in about two of three, less often where directions differ."""
    for cosine, least, most in ((1.0, 0.5, 0.85), (0.5, 0.35, 0.8)):
        inside = 0
        for seed in range(60):
            found = drawn(30, length=0.5, noise=0.2, seed=seed, cosine=cosine, form="projection").estimate()
            inside += bool(found.low <= 2.0 / cosine <= found.high)
        assert least < inside / 60 < most


def test_steps_that_say_nothing_are_no_evidence():
    """A gradient that is zero for some steps, as a surrogate's before its first fit, neither counts nor weighs on later ones."""
    generator = torch.Generator().manual_seed(0)
    average, late = GainAverage([30, 10]), GainAverage([30, 10])
    for step in range(40):
        g = 1 + 0.1 * torch.randn(40, generator=generator)
        h = 0.25 * g * torch.cat([torch.full((30,), float(step >= 16)), torch.ones(10)])
        average.add(g, h)
        if step >= 16:
            late.add(g, h)
        if step == 16:
            assert float(average.estimate().value[0]) == 1.0
    torch.testing.assert_close(average.state[0, 20:], late.state[0, 20:])
    assert average.estimate().trusted.tolist() == pytest.approx([4.0, 4.0], rel=1e-3)
    short = GainAverage([40], momentum=0.7)  # the least that settings allow: its steps come to count as enough
    for _ in range(12):
        short.add(4 + 0.01 * torch.randn(40, generator=generator), torch.ones(40))
    assert float(short.estimate().trusted) == pytest.approx(4.0, rel=0.02)


def test_the_cosine_of_parts_is_that_of_the_whole():
    """Parts of unequal lengths: (1, 1) and (1, 0.01) are 45 degrees apart, their parts none."""
    whole, parts = GainAverage([2]), GainAverage([1, 1])
    for _ in range(8):
        for average in (whole, parts):
            average.add(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.01]))
    assert whole.cosine == pytest.approx(parts.cosine, rel=1e-5) == pytest.approx(0.714, abs=0.001)


def test_no_step_weighs_itself():
    """What a step adds is linear in its own gradients: along means that hold no sample of it."""
    average = drawn(10, length=0.25, noise=0.2)
    kept, means = average.state.clone(), average.means.clone()
    generator = torch.Generator().manual_seed(9)
    g, h = torch.randn(2, 400, generator=generator, dtype=torch.float64)
    added = []
    for scale in (1.0, 3.0):
        average.state, average.means = kept.clone(), means.clone()
        average.add(scale * g, scale * h)
        added.append(average.state[0, :4] - 0.98 * kept[0, :4])
    torch.testing.assert_close(added[1], 3 * added[0], rtol=1e-6, atol=1e-9)


def test_without_evidence_nothing_is_scaled():
    assert GainAverage([1, 2, 3]).estimate().trusted.tolist() == [1.0, 1.0, 1.0]
    assert drawn(4, length=0.25, noise=0.01).estimate().trusted.tolist() == [1.0]  # so few have no error bar
    noise_alone = drawn(40, length=0.25, noise=100.0)
    found = noise_alone.estimate()
    assert float(found.trusted) == pytest.approx(float(torch.ones(1).clamp(found.low.float(), found.high.float())))
    assert float(drawn(40, length=4.0, noise=0.02).estimate().trusted) < 0.3  # too long is made shorter


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
    gains = calibration.gains()
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
        found, expected = (getattr(module.method.calibration, name) for module in (one, many))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-12)
        assert float(found.abs().sum()) > 0


def test_the_steps_own_rollouts_teach_what_both_estimators_make_of_them(policy64):
    module, batch = calibrated(policy64, kl_coef=0.3, gain_momentum=0.8), make_batch(policy64)
    rollouts, weights = rollouts_of(module, batch), list(policy64.trainable().values())
    module.method.accumulate(rollouts, totals_of(rollouts), Meter(), 1)
    take_gradient(weights)
    for kind, settings, found in (
        (RLOOGradient, {"completions_per_prompt": 2}, module.method.calibration.means[0]),
        (GradeGradient, {"temperature": lambda step: 1.0, "tol": 1e-12}, module.method.calibration.means[1]),
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
    assert float(module.method.calibration.means.norm(dim=1).min()) > 0


def test_soft_grade_is_compared_on_the_same_noise(policy64):
    """RLOO's gradient is the one that a straight-through method's own batch has, soft GRADE's that of its own samples of that noise."""
    hard, soft = (calibrated(policy64, completions_per_prompt=1, straight_through=hard, kl_coef=0.3) for hard in (True, False))
    batch = make_batch(policy64)
    plain = gradient(make_grade(policy64, straight_through=False, kl_coef=0.3), batch)
    assert (gradient(soft, batch) - plain).norm() < 1e-6 * plain.norm()
    gradient(hard, batch)
    known, means = (module.method.calibration.means for module in (hard, soft))
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
    assert float(module.method.calibration.means.norm(dim=1).min()) > 0


def test_the_state_is_part_of_checkpoints(model_folder):
    _, policy = make_policy(model_folder)
    module = calibrated(policy)
    for _ in range(2):
        one_update(module, make_batch(policy))
    kept = module.state_dict()
    assert all(float(kept[f"method.calibration.{name}"].abs().sum()) > 0 for name in ("state", "means"))
    other = calibrated(make_policy(model_folder)[1])
    other.load_state_dict(kept, strict=False)
    for name in ("state", "means"):
        assert torch.equal(getattr(other.method.calibration, name), getattr(module.method.calibration, name))


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
    assert float(module.method.calibration.means.abs().sum()) == 0


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
