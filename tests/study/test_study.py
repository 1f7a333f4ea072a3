"""The study itself: sketches, units, resuming, the command."""

from __future__ import annotations

import json
import math

import pytest
import torch

from grade_lightning.gradients import main, overrides_of, parse, rollouts_of
from grade_lightning.methods import PPOGradient, ReinforceGradient, RLOOGradient
from grade_lightning.records.text import json_text
from grade_lightning.rollout.noise import training_noise
from grade_lightning.study.output import _crossover, for_json
from grade_lightning.study.sketch import CountSketch
from grade_lightning.study.store import UnitStore
from grade_lightning.study.units import Unit, UnitSampler
from tests.conftest import make_batch, make_policy
from tests.entry import SMALL, SMALL_LM
from tests.methods.harness import gradient, make_grade, make_module


def test_sketch_keeps_inner_products():
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 50_000, generator=generator)
    y = y + 0.5 * x
    found = [float(CountSketch(50_000, 1000, seed=s)(x) @ CountSketch(50_000, 1000, seed=s)(y)) for s in range(40)]
    mean = sum(found) / len(found)
    spread = float(x.norm() * y.norm()) / 1000**0.5
    assert mean == pytest.approx(float(x @ y), abs=4 * spread / 40**0.5)
    assert max(abs(value - float(x @ y)) for value in found) < 5 * spread
    torch.testing.assert_close(CountSketch(10, 1000)(x[:10]), x[:10])


@pytest.mark.parametrize("make", ["grade_ste", "grade", "rloo", "reinforce"])
def test_a_unit_is_the_gradient_of_its_batch(make, model_folder):
    _, policy = make_policy(model_folder)
    method = {
        "grade_ste": lambda: make_grade(policy), "grade": lambda: make_grade(policy, straight_through=False),
        "rloo": lambda: make_module(RLOOGradient, policy, {}), "reinforce": lambda: make_module(ReinforceGradient, policy, {}),
    }[make]()  # fmt: skip
    batch = make_batch(policy)[:1]
    expected = gradient(method, batch if make == "rloo" else batch.repeat(4))
    settings = method.context.rollout
    noise = training_noise(0, 1, 4, settings.max_new_tokens, settings.top_k)
    sampler = UnitSampler(method.method, baseline=None)
    found = sampler.unit(batch.repeat(4), noise)
    assert (found.gradient - expected).norm() < 1e-10 * expected.norm()
    norms = [float(part.norm()) for part in found.gradient.split([w.numel() for w in policy.trainable().values()])]
    assert found.tensor_spread == pytest.approx(float(torch.tensor(norms).std(correction=0)), rel=1e-6)
    assert found.tokens > 0


def test_reinforce_keeps_its_baseline(model_folder):
    _, policy = make_policy(model_folder)
    sampler = UnitSampler(make_module(ReinforceGradient, policy, {}).method, baseline=0.25)
    settings = sampler.method.context.rollout
    noise = training_noise(0, 1, 2, settings.max_new_tokens, settings.top_k)
    first, again = (sampler.unit(make_batch(policy)[:2], noise).gradient for _ in range(2))
    torch.testing.assert_close(first, again)


def test_ppo_has_no_single_gradient(model_folder):
    _, policy = make_policy(model_folder)
    with pytest.raises(ValueError, match="several updates"):
        UnitSampler(make_module(PPOGradient, policy, {}).method)
    assert UnitSampler(make_grade(policy).method)


def test_store_goes_on_and_refuses_other_settings(tmp_path):
    def store(**changes):
        options = {"prompts": 4, "draws": 2, "sketch": CountSketch(6, 100), "settings": {"tau": 1.0}} | changes
        return UnitStore(tmp_path / "s", **options)

    units = [[Unit(torch.randn(6), 0.1, 5, 0.2, 0.5) for _ in range(2)] for _ in range(4)]
    first = store()
    for pair in units[:3]:
        first.add(pair)
    again = store()
    assert again.done == 3
    again.add(units[3])
    found = again.units(4, 1)
    torch.testing.assert_close(torch.from_numpy(found.sketches), torch.stack([torch.stack([u.gradient for u in pair]) for pair in units]))
    assert found.squares[2, 1] == pytest.approx(float(units[2][1].gradient.square().sum()), rel=1e-6)
    with pytest.raises(ValueError, match="other settings"):
        store(settings={"tau": 2.0})


def test_options_of_methods():
    study = parse(["methods=rloo,grade_ste:tau=0.5:max_hops=0", "prompts=8", "max_new_tokens=8"])
    assert overrides_of(study.methods[0], study) == ["method=rloo", "method.completions_per_prompt=4"]
    assert overrides_of(study.methods[1], study) == [
        "method=grade_ste",
        "temperature=constant",
        "temperature.value=0.5",
        "method.max_hops=0",
    ]
    assert study.overrides == ["max_new_tokens=8"]


def test_completions_of_a_draw():
    study = parse(["methods=rloo,reinforce,grade_ste,grade_ste:tau=1:rollouts=8", "rollouts=8", "relaxed_rollouts=2"])
    assert [rollouts_of(spec, study) for spec in study.methods] == [8, 8, 2, 8]
    assert overrides_of(study.methods[3], study) == ["method=grade_ste", "temperature=constant", "temperature.value=1"]
    assert overrides_of("rloo", study)[1] == "method.completions_per_prompt=4"
    assert parse(["rollouts=2"]).group == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["methods=grade_ste"], "must hold rloo"), (["draws=1"], "at least 2"), (["prompts=many"], "not a number"),
     (["checkpoint={missing}"], "no run folder"), (["methods=rloo,unheard_of"], "unheard_of"), (["methods=rloo,rloo"], "twice"),
     (["rollouts=6"], "multiple of group=4"), (["relaxed_rollouts=5"], "must not exceed"),
     (["methods=rloo,grade_ste:rollouts=9"], "between 1 and"), (["methods=rloo,grpo:rollouts=6", "rollouts=8"], "grpo:rollouts=6: its"),
     (["methods=rloo,grade_ste:tau"], "KEY=VALUE"), (["methods=rloo,hybrid"], "parents"),
     (["methods=rloo,grade_ste_nucleus"], "different policies"), (["methods=rloo", "protocol.logprobs=full"], "biased")],
)  # fmt: skip
def test_studies_that_cannot_be_made(arguments, message, tmp_path, capsys):
    assert main([argument.format(missing=tmp_path / "missing") for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_crossovers_that_are_no_number_are_told_apart():
    """Never, from the start, unknown: each has its own word, in JSON too, which knows neither infinity nor nan."""
    units = {"rollouts": math.inf, "tokens": 0.0, "seconds": math.nan}
    entry = {"crossovers": units, "crossover_intervals": {unit: [640.0, cost] for unit, cost in units.items()}}
    written = json.loads(json_text(for_json({"estimators": {"a": entry}})))["estimators"]["a"]
    assert written["crossovers"] == {"rollouts": "never", "tokens": 0.0, "seconds": None}
    assert written["crossover_intervals"]["rollouts"] == [640.0, "never"]
    assert [_crossover(entry, unit) for unit in units] == [
        "never [640, never]",
        "from the start [640, from the start]",
        "not known [640, not known]",
    ]


def test_command(tmp_path, shared_cache, monkeypatch, capsys):
    """To a table on the embedded reviews; a second call measures nothing again and finds the same."""
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    arguments = [
        "methods=rloo,grade_ste:rollouts=4,reinforce,grade_ste",
        "prompts=12",
        "relaxed_rollouts=2",
        f"out={tmp_path / 'out'}",
        "sketch=512",
        *SMALL,
        *SMALL_LM,
    ]
    assert main(arguments) == 0
    found = json.loads((tmp_path / "out" / "results.json").read_text())
    assert set(found["estimators"]) == {"rloo", "grade_ste:rollouts=4", "reinforce", "grade_ste"}
    # The same rollouts, scored in passes of other shapes.
    assert found["estimators"]["grade_ste:rollouts=4"]["reward"] == pytest.approx(found["estimators"]["rloo"]["reward"], rel=1e-4)
    assert {spec: row["batches"] for spec, row in found["hybrid"].items()} == {"grade_ste:rollouts=4": 6}
    stored = json.loads((tmp_path / "out" / "grade_ste" / "progress.json").read_text())
    assert stored["settings"]["rollouts"] == 2
    assert stored["rows"][0]["tokens"][0] <= 2 * 8
    assert (tmp_path / "out" / "rho.png").exists()
    assert "| reinforce |" in capsys.readouterr().out
    crossovers = found["estimators"]["reinforce"]
    assert set(crossovers["crossovers"]) == set(crossovers["crossover_intervals"]) == {"rollouts", "tokens", "seconds"}
    seconds = found["estimators"]["rloo"]["seconds_per_rollout"]
    assert main(arguments) == 0
    again = json.loads((tmp_path / "out" / "results.json").read_text())
    assert again["estimators"]["rloo"]["seconds_per_rollout"] == seconds
    assert again["estimators"]["grade_ste"]["numbers"] == found["estimators"]["grade_ste"]["numbers"]
