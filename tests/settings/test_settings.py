"""What settings say of themselves: types, origins, rules, hashes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml

from grade_lightning.compose import composed, config_hash, resolved, settings_of
from grade_lightning.overrides import check_arguments, values_beside_help
from grade_lightning.records.identity import as_laid_out_now, run_hash
from grade_lightning.settings import SettingsError, describe, help_text, parse
from grade_lightning.settings.fields import Component, are_components, fields_of, is_component
from grade_lightning.settings.methods import PPOSettings
from grade_lightning.settings.problems import ALIASES
from grade_lightning.settings.rollout import RolloutSettings
from grade_lightning.settings.types import nested

HASHES = json.loads((Path(__file__).parents[1] / "references" / "run_hashes.json").read_text())
LOCAL = ["data=parquet", "data.path=/a/imdb", "model=local", "model.path=/b/lm"]


def settings(*overrides: str):
    return settings_of(composed([*overrides, "run.dir=x"]))


def message(*overrides: str) -> str:
    with pytest.raises(SettingsError) as error:
        settings(*overrides)
    return str(error.value)


@pytest.mark.parametrize("case", HASHES, ids=lambda case: " ".join(case["overrides"]) or "default")
def test_runs_keep_the_hash_that_earlier_versions_gave_them(case):
    """``run_hashes.json`` was written by the version before settings had types; wherever keys moved, the hash did not."""
    cfg = composed(case["overrides"])
    assert config_hash(cfg) == case["hash"]
    assert config_hash(cfg, without=("seed",)) == case["variant"]


def test_a_mixture_keeps_the_hash_from_before_it_could_fade_into_something_else():
    plain = resolved(composed(["method=annealed", "method.policy_gradient=rloo", "run.dir=x"]))
    former = {**plain, "method": {key: value for key, value in plain["method"].items() if key != "policy_gradient"}}
    other = {**plain, "method": {**plain["method"], "policy_gradient": "grpo"}}
    assert run_hash(former) == run_hash(plain) != run_hash(other)


def test_how_a_gain_is_learned_is_no_part_of_a_run_that_learns_none():
    """And a calibrated run is not the one that an earlier version made with the same keys."""

    def hashes(*overrides: str) -> list[str]:
        forms = ([], ["method.gain_form=regression"])
        return [config_hash(composed(["method=grade_ste", *form, *overrides, "run.dir=x"])) for form in forms]

    none, number = hashes(), hashes("method.reward_gain=3")
    assert len(set(none)) == len(set(number)) == 1
    assert len({*none, *number, *hashes("method.reward_gain=calibrated")}) == 4


@pytest.mark.parametrize("overrides", [["method=ppo"], ["method=ppo", "protocol=released"], ["method=hybrid", *LOCAL], []])
def test_what_an_earlier_version_wrote_is_understood(overrides):
    """The former layout is the present one with the moved keys where they were: laid out now it gives the same settings and hash."""
    plain = resolved(composed([*overrides, "run.dir=x"]))
    former = json.loads(json.dumps(plain))
    former["protocol"] |= {"gae_axis": "time", "terminal_reward": "last_token", "value_head_dtype": "fp32"}
    former["protocol"]["advantage_normalisation"] = "none"
    former["reward"]["_target_"] = "grade_lightning.models.reward_training.trained_classifier"
    former["reward"]["head"]["_target_"] = "grade_lightning.models.reward_training.HeadSettings"
    if former["model"]["pretrain"]:
        former["model"]["pretrain"]["_target_"] = "grade_lightning.models.pretraining.PretrainSettings"
    with pytest.raises(SettingsError):
        parse(former)
    assert parse(as_laid_out_now(former)) == parse(plain)
    assert run_hash(as_laid_out_now(former)) == run_hash(plain)


def test_values_in_files_are_the_defaults_of_the_fields():
    """A run that is described in Python, without files, is the one that the files describe, but for what a group is chosen for."""
    plain = resolved(composed([*LOCAL, "run.dir=x"]))
    chosen = {"model.path", "data.path", "optimizer.lr", "run.dir", "names.model", "names.data"}

    def compare(group: type, values: dict, prefix: str = "") -> None:
        for name, info in fields_of(group).items():
            key, inner = f"{prefix}{name}", nested(info.annotation)
            if inner is not None and isinstance(values.get(name), dict):
                compare(inner, values[name], f"{key}.")
            elif name in values and key not in chosen and not is_component(info) and not are_components(info) and inner is None:
                assert values[name] == info.default, key

    from grade_lightning.settings import Settings

    compare(Settings, {**plain, "reward": {}})
    for option in ("ppo", "reinforce", "rloo", "grpo", "hybrid", "grade_ste"):
        made = settings(*LOCAL, f"method={option}", *(["method.match_kl=false"] if option in ("ppo", "grpo") else [])).method_settings
        defaults = {name: info.default for name, info in fields_of(type(made)).items() if not is_component(info)}
        assert {name: getattr(made, name) for name in defaults} == defaults, option


def test_a_value_is_named_with_its_key_what_is_allowed_and_where_it_came_from(tmp_path):
    assert message("kl_coef=-1") == "kl_coef=-1 (command line): it must be a finite number, at least 0"
    assert "(conf/protocol/released.yaml)" in message("protocol=released", "method=rloo")
    assert "rollout.top_k=900 (command line): it is above" not in message("rollout.top_k=900000000")
    assert message("max_new_tokens=many").count("\n") == 0  # what refers to it is not named as well
    assert message("tau.end=0").startswith("tau.end=0 (command line)")


def test_everything_wrong_is_said_at_once():
    found = message("kl_coef=-1", "method.tol=nan", "+rollout.foo=1", "evaluation.test=maybe", "hardware.precision=fp8")
    assert found.startswith("5 settings cannot be used:")
    for key in ("kl_coef=-1", "method.tol=nan", "rollout.foo=1", "evaluation.test=maybe", "hardware.precision=fp8"):
        assert key in found
    assert "one of fp32, bf16" in found


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("+optimizer.lrr=1", "optimizer.lr?"),
        ("+rollout.topk=1", "rollout.top_k?"),
        ("+method.epoch=1", "method.epochs?"),
        ("+sed=2", "seed?"),
    ],
)
def test_an_unknown_key_is_refused_with_the_nearest_one(override, nearest):
    assert f"there is no such setting: did you mean {nearest}" in message("method=ppo", override)


def test_an_unknown_key_of_the_command_line_is_refused_before_hydra_reads_it():
    with pytest.raises(ValueError, match=r"did you mean rollout\.top_k\?"):
        check_arguments(["method=ppo", "rollout.topk=3", "-m"])
    check_arguments(["method=ppo", "method.epochs=2", "hydra.sweep.dir=x", "~logger", "+anything=1", "-m", "data.source.train_rows=5",
                     "launcher@hydra=slurm", "optimizer={lr: 1}", "method=grade,grade_ste", "method=[ppo]", "logger=[wandb,csv]",
                     "temperature=constant", "experiment=null"])  # fmt: skip


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("lr=1e-3", "did you mean optimizer.lr?"),
        ("method.lr=1e-3", "did you mean optimizer.lr?"),
        ("optimizer.learning_rate=1", "did you mean optimizer.lr?"),
        ("reward.head.learning_rate=1", "did you mean reward.head.lr?"),
        ("beta=0.1", "did you mean kl_coef?"),
        ("num_generations=4", "did you mean method.completions_per_prompt?"),
        ("method.tau=1", "did you mean temperature.value?"),
        ("method=grade_st", "there is no such option: did you mean grade_ste? method is one of annealed, "),
        ("method=rloo,rlo", "method=rlo: there is no such option: did you mean rloo?"),
        ("logger=[wandb,tensorbord]", "logger=tensorbord: there is no such option: did you mean tensorboard?"),
        ("temperature=1", "chosen by name: temperature=constant temperature.value=1"),
        ("reward=rewards:short", "reward=function reward.function=rewards:short"),
    ],
)
def test_what_others_call_a_setting_and_what_a_group_has_not_are_said_before_hydra(argument, said):
    with pytest.raises(ValueError, match="=") as refused:
        check_arguments([argument])
    assert said in str(refused.value)


def test_what_others_call_a_setting_is_one_that_there_is():
    for name, meant in ALIASES.items():
        with pytest.raises(ValueError, match=rf"did you mean {meant}\?"):
            check_arguments([f"method.{name}=1"])


def test_options_of_a_folder_of_ones_own_are_left_to_hydra():
    check_arguments(["hydra.searchpath=[file:///tmp/mine]", "method=mine", "method.own=1"])
    check_arguments(["--config-dir=/tmp/mine", "method=mine"])
    check_arguments(["+hydra.searchpath=[file:///tmp/mine]", "reward=mine"])
    check_arguments(["--config-name", "mine", "method=mine"])


def test_what_hydra_takes_is_not_refused():
    check_arguments(["hydra/job_logging=default", "hydra/launcher=joblib", "method=ppo.yaml", "protocol_method=nothing"])
    check_arguments(["-m", "method=choice(grade,ppo)", "seed=range(1,4)", "method=glob(*)", "optimizer.lr=tag(log, interval(1e-4,1e-2))"])
    check_arguments(["+method.own=1", "method.own=2"])
    check_arguments(["trainer._target_=lightning.Trainer", "logger=wandb", "logger.wandb._target_=mine.Logger"])


@pytest.mark.parametrize("method", ["rloo", "grpo", "hybrid"])
def test_a_method_without_a_released_form_is_refused(method):
    assert f"and not for {method}: choose" in message("protocol=released", f"method={method}", "effective_batch_size=16")


@pytest.mark.parametrize("method", ["decoupled_st", "reinmax", "gumbel_rao", "grade_ste_nucleus"])
def test_straight_through_variants_have_the_released_form_of_grade_ste(method):
    found, expected = (settings("protocol=released", f"method={m}") for m in (method, "grade_ste"))
    assert found.protocol == expected.protocol
    assert found.evaluation == expected.evaluation
    assert found.reward.settings.scope == expected.reward.settings.scope == "completion"


def test_the_papers_protocol_has_the_papers_temperature_and_rate_with_every_model():
    """tau of the 250th step, after 249: 2 - 1.5 * 249 / 2000."""
    from grade_lightning.build import build

    for model in (["model=tiny"], LOCAL, ["model=qwen3_4b"]):
        found = settings("protocol=paper", *model)
        assert build(found.temperature)(249) == pytest.approx(2 - 1.5 * 249 / 2000)
        assert found.optimizer.lr_decay_steps is None
        assert (found.kl_coef, found.max_new_tokens, found.rollout.top_k, found.max_steps) == (0.1, 64, 256, 250)


def test_components_that_cannot_work():
    assert message("method.temperature=null").endswith("it must be given: choose one of the group's options")
    assert "data.source=null" in message("data.source=null")
    assert "set it to true" in message("method=reinmax", "method.relaxation._partial_=false")
    assert "must lie between minimum=9.0 and maximum" in message("temperature=adaptive", "temperature.minimum=9.0")
    assert "use largest_weight" in message("temperature=adaptive", "temperature.metric=first_ratio", "method.backprop=sequential")
    mixture = ("method=annealed", "temperature=adaptive", "temperature.metric=first_ratio")
    settings(*mixture, "method.max_hops=1")
    assert "use largest_weight" in message(*mixture, "method.max_hops=0")


def test_faults_of_a_group_name_its_key_and_the_command_line():
    assert message("max_new_tokens=32", "rollout.min_new_tokens=99").startswith("rollout (command line): min_new_tokens=99")
    assert message("method=decoupled_st", "method.straight_through=false").startswith("method (command line): relaxation replaces")


def test_a_gated_relaxation_needs_mixtures():
    assert "straight_through=false" in message("method=entrgi", "method.straight_through=true")


def test_rules_between_groups():
    assert "multiple of 16" in message("method=hybrid", "effective_batch_size=24")
    assert "use adamw" in message("method=ppo", "optimizer.name=sgd")
    assert "no standard deviation" in message("method=reinforce", "method.advantage_normalisation=batch", "effective_batch_size=1")
    assert "above the vocabulary size 1,400" in message("rollout.top_k=2000")
    assert "512 positions" in message("max_new_tokens=600")
    assert "backprop=adjoint" in message("method.backprop=sequential", "method.max_hops=1")
    assert "reads nothing from there" in message("+data.path=x")
    assert "model.path=FOLDER" in message("model=local")
    assert "must not exceed max_new_tokens=8" in message("max_new_tokens=8", "rollout.min_new_tokens=9")


@pytest.mark.parametrize(
    ("target", "reason"),
    [("os.system", "none of Python's own"), ("eval", "package.module.Name"), ("nowhere.at.all", "cannot be imported"),
     ("torch.nn.nothing", "cannot be imported"), ("tests.entry.Path", "none of Python's own"), ("torch.pi", "none of Python's own")],
)  # fmt: skip
def test_import_paths_that_are_no_component(target, reason):
    assert reason in message(f"method._target_={target}")


def test_code_of_other_packages_is_checked_by_its_signature():
    ours = "tests.settings.test_settings.my_temperature"
    found = settings("temperature=constant", f"temperature._target_={ours}")
    assert found.temperature == Component(ours, {"value": 1.0}, partial=True)
    assert "takes no such argument" in message("temperature=constant", f"temperature._target_={ours}", "+temperature.speed=3")


@pytest.mark.parametrize("method", ["annealed", "entrgi"])
def test_methods_that_are_plain_at_one_temperature_bring_it(method):
    """Unless the command names a schedule."""
    constant = settings("temperature=constant").temperature
    assert constant.target.endswith("constant_temperature")
    assert constant.settings.value == 1
    assert settings(f"method={method}").temperature == constant
    assert settings(f"method={method}", "temperature=linear").temperature == settings("method=grade_ste").temperature != constant


def my_temperature(step: int, *, value: float) -> float:
    return value + step


def test_settings_made_in_python_say_the_same():
    with pytest.raises(ValueError, match=r"^epochs=0: it must be a whole number, at least 1 and at most 10,000$"):
        PPOSettings(epochs=0)
    with pytest.raises(ValueError, match="there is no such setting: did you mean top_k"):
        RolloutSettings(topk=3)
    with pytest.raises(ValueError, match=r"top_p=2: it must be a finite number, above 0 and at most 1"):
        dataclasses.replace(RolloutSettings(), top_p=2)


def test_every_key_is_documented_and_shown_by_help():
    text = help_text()
    keys = [field for group in describe() for field in group.fields]
    assert len(keys) > 120
    for field in keys:
        assert field.doc, field.key
        assert f"  {field.key}: " in text
    polymorphic = ("method.", "temperature.", "data.source.", "reward.")
    once = [(field.key, group.option == "prompts") for group in describe() for field in group.fields]
    once = [item for item in once if not item[0].startswith(polymorphic)]
    assert len(set(once)) == len(once)


def test_help_says_what_the_command_beside_it_makes_of_a_default(capsys):
    def line(key, *arguments):
        words = " ".join(help_text(values_beside_help(arguments)).split())
        return words[words.index(f" {key}: ") :].split("]", 1)[0].rpartition("[")[2]

    plain = resolved(composed(["run.dir=x"]))
    assert line("max_steps") == f"60; here {plain['max_steps']}"
    assert line("max_steps", "-m", "max_steps=7", "method=ppo,rloo") == "60; here 7"
    assert line("seed") == "1"
    assert line("model.path", "model=local") == "null; here must be given"
    assert line("method.reward_gain", "method=annealed") == "none; here 3.0"  # its section is the first
    assert line("method.reward_gain", "method=grade") == "none"
    assert line("method.half", "method=annealed") == "100.0"
    assert values_beside_help(["method=pp"]) is None
    assert "did you mean ppo" in capsys.readouterr().err


def test_config_yaml_reads_back_as_the_same_settings(tmp_path):
    from grade_lightning.records.text import yaml_text

    for method in ("ppo", "grade_ste", "gumbel_rao"):
        plain = resolved(composed([f"method={method}", "optimizer.lr=1e-05", "run.dir=x"]))
        again = yaml.safe_load(yaml_text(plain))
        assert again == plain
        assert parse(again) == parse(plain)
        assert run_hash(again) == run_hash(plain)


def test_where_a_scope_is_in_the_parts_evaluations_of_another_scope_are_another_run():
    parts = [
        "method=rloo",
        "reward=sum",
        "+reward@reward.parts.a=sequence_classifier",
        "reward.parts.a.path=x",
        "reward.parts.a.scope=completion",
    ]
    assert config_hash(composed([*parts, "evaluation.scope=full"])) != config_hash(composed([*parts, "evaluation.scope=reward"]))
