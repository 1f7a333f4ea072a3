"""One wrong value anywhere: every key of every group, changed alone, runs or is refused by one message before anything is loaded."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from omegaconf import DictConfig, OmegaConf, open_dict

from grade_lightning.compose import composed, settings_of
from grade_lightning.run import execute
from grade_lightning.settings import SettingsError, describe
from tests.entry import SMALL, SMALL_LM

QUICK = ["abc", None, -1, float("nan"), {"a": 1}]
ALL = [*QUICK, 0, float("inf"), 1.5, 10**30, True, [], ""]
OPTIONS = {
    "method": ["ppo", "grade_ste", "reinforce", "rloo", "grpo", "hybrid", "gumbel_rao"],
    "temperature": ["linear", "cosine", "exponential", "constant", "adaptive"],
    "data": ["synthetic", "parquet", "hub", "prompts"],
    "logger": ["wandb", "tensorboard", "mlflow"],
    "reward": ["classifier_head", "function", "sequence_classifier"],
}


def keys() -> list[tuple[str, str | None]]:
    """Every key with the override that brings its group, if it takes one."""
    found: list[tuple[str, str | None]] = []
    for group in describe():
        option = None
        if group.option is not None:
            root = group.name.split(".")[0]
            option = next((f"{root}={name}" for name in group.option.split(", ") if name in OPTIONS.get(root, [])), None)
        found += [(field.key, option) for field in group.fields]
    return sorted(set(found), key=str)


KEYS = keys()
TYPES = {field.key: field.type for group in describe() for field in group.fields}
_composed: dict[str | None, DictConfig] = {}


def base(option: str | None) -> DictConfig:
    """The small run with an option; composed once."""
    if option not in _composed:
        small = [*SMALL, *SMALL_LM, "evaluation.validate_every=1"] if option not in ("data=parquet", "data=hub", "data=prompts") else []
        if option == "data=prompts":  # a reward without labels, and a model that is not pretrained on reviews
            small = ["data.path=x.jsonl", "model=local", "model.path=x", "reward=function", "reward.function=a:b", "method=rloo"]
        batch = {
            "method=hybrid": ["effective_batch_size=16"], "reward=function": ["reward.function=a:b", "method=rloo"],
            "reward=sequence_classifier": ["reward.path=x"],
        }.get(str(option), [])  # fmt: skip
        if batch and str(option).startswith("reward="):
            small = [override for override in small if not override.startswith("reward.head")]
        _composed[option] = composed([*([option] if option else []), *small, *batch, "run.dir=x"])
    return _composed[option]


@contextmanager
def changed(key: str, option: str | None, value: object) -> Iterator[DictConfig]:
    """The configuration with one value changed, which is put back afterwards."""
    cfg = base(option)
    group, _, name = key.rpartition(".")
    parent = OmegaConf.select(cfg, group) if group else cfg
    content = parent._content
    before = copy.deepcopy(content.get(name))  # an update changes the node itself
    with open_dict(cfg):
        OmegaConf.update(cfg, key, value, merge=False, force_add=True)
    try:
        yield cfg
    finally:
        if before is None:
            del content[name]
        else:
            content[name] = before


def refused(cfg: DictConfig) -> str | None:
    """The message that refuses a configuration; any other error is the test's failure."""
    try:
        settings_of(cfg)
    except SettingsError as error:
        return str(error)
    except ValueError as error:  # a reference to a key of what is no group any more
        return str(error)
    return None


def test_what_is_put_back_is_accepted():
    """Or every later case would be refused for an earlier one's value."""
    for option in {option for _, option in KEYS}:
        assert refused(base(option)) is None or option in ("data=parquet", "data=hub")
        with changed("kl_coef", option, -1) as cfg:
            assert "kl_coef=-1" in str(refused(cfg))
    accepted = 0
    for key, option in KEYS:
        with changed(key, option, 1) as cfg:
            accepted += refused(cfg) is None
    assert accepted > len(KEYS) / 3  # about half of the keys may be 1


def check(key: str, option: str | None, value: object) -> None:
    with changed(key, option, value) as cfg:
        said = refused(cfg)
    if said is not None:
        assert key.rsplit(".", maxsplit=1)[-1] in said or "=" in said
        assert "\n  " not in said or said.splitlines()[0].endswith("cannot be used:")
    no_number = isinstance(value, float) and not math.isfinite(value)
    if value in ("abc", "") or isinstance(value, dict) or no_number:  # no number, no choice, no group
        assert said is not None or (value != "" and "text" in TYPES[key]), f"{key}={value!r} was accepted"


@pytest.mark.parametrize(("key", "option"), KEYS, ids=str)
def test_one_wrong_value(key, option):
    for value in QUICK:
        check(key, option, value)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "option"), KEYS, ids=str)
def test_any_wrong_value(key, option):
    for value in ALL:
        check(key, option, value)


@pytest.mark.parametrize("group", sorted({key.rsplit(".", 1)[0] for key, option in KEYS if "." in key and option is None}))
def test_an_unknown_key_in_every_group(group):
    with changed(f"{group}.foo", None, 1) as cfg:
        said = refused(cfg)
    assert said is not None
    assert f"{group}.foo=1" in said
    assert "there is no such setting: did you mean" in said


@pytest.mark.parametrize("group", sorted({key.rsplit(".", 1)[0] for key, option in KEYS if "." in key and option is None}))
@pytest.mark.parametrize("value", ["abc", 3])
def test_a_value_in_place_of_a_group(group, value):
    with changed(group, None, value) as cfg:
        said = refused(cfg)
    assert said is not None
    assert "it must be a group" in said or "it is a group" in said


# Whole runs of what is accepted: keys that neither make another base LM or head (minutes) nor only name things.
_LONG = ("model.pretrain", "data.", "reward.", "names.", "run.", "logger.", "max_steps")
ACCEPTED = [(key, option) for key, option in KEYS if not key.startswith(_LONG)]


@pytest.mark.slow
@pytest.mark.parametrize(("key", "option"), ACCEPTED, ids=str)
def test_what_is_accepted_runs(key, option, tmp_path, shared_cache, monkeypatch):
    """The oddest accepted value of each key: a run, or one message."""
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    monkeypatch.setenv("WANDB_MODE", "offline")
    for value in (0, -1, None, 1.5, 1, True):
        with changed(key, option, value) as shared:
            cfg = copy.deepcopy(shared)
        said = refused(cfg)
        if said is None:
            with open_dict(cfg):
                cfg.run.dir, cfg.max_steps = str(tmp_path / "run"), 1
            try:
                steps = execute(cfg)["steps"]
            except (ValueError, FloatingPointError) as error:
                steps, said = None, str(error)
            assert steps == 1 or (said and not (tmp_path / "run" / "results.json").exists())
            return
    pytest.skip("no odd value of this key is accepted")
