"""A run folder from somebody else: nothing that it names is imported unless asked for."""

import sys

import pytest
import yaml

from grade_lightning.compose import composed, resolved
from grade_lightning.rewards.function import load_function
from grade_lightning.settings.of_run import settings_of_run

MARK = "import pathlib\npathlib.Path({mark!r}).write_text('ran')\ndef score(completions, **_):\n    return [0.0] * len(completions)\n"


def write(folder, *overrides: str, **changed) -> None:
    plain = resolved(composed([*overrides, f"run.dir={folder}"]))
    for key, value in changed.items():
        group, name = key.split("__")
        plain[group][name] = value
    folder.mkdir(exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plain))


@pytest.mark.parametrize("method", ["grade_ste", "ppo", "hybrid", "entrgi"])
def test_our_own_components_need_no_trust(tmp_path, method):
    write(tmp_path / "run", f"method={method}")
    assert settings_of_run(tmp_path / "run").names.method == method


def test_a_foreign_component_is_not_even_imported(tmp_path, monkeypatch):
    (tmp_path / "hostile_code.py").write_text(MARK.format(mark=str(tmp_path / "mark")))
    monkeypatch.syspath_prepend(str(tmp_path))
    write(tmp_path / "run")
    plain = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    plain["evaluation"]["judges"]["own"] = {"_target_": "hostile_code.score"}
    (tmp_path / "run" / "config.yaml").write_text(yaml.safe_dump(plain))
    with pytest.raises(ValueError, match=r"judges\.own\._target_=hostile_code\.score.*trust=true"):
        settings_of_run(tmp_path / "run")
    assert "hostile_code" not in sys.modules
    assert not (tmp_path / "mark").exists()
    settings_of_run(tmp_path / "run", trust=True)
    assert (tmp_path / "mark").exists()
    sys.modules.pop("hostile_code")


def test_code_of_a_models_repository_is_not_run(tmp_path):
    write(tmp_path / "run", model__trust_remote_code=True)
    with pytest.raises(ValueError, match=r"model\.trust_remote_code=True"):
        settings_of_run(tmp_path / "run")


@pytest.mark.parametrize("name", ["rewards_of_mine:score", "runs.nice.evil:score"])
def test_a_function_is_foreign_wherever_it_lies(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "run", "method=rloo", "reward=function", f"reward.function={name}")
    with pytest.raises(ValueError, match=r"reward\.function=.*trust=true"):
        settings_of_run(tmp_path / "run")
    settings_of_run(tmp_path / "run", trust=True)
    settings_of_run(tmp_path / "run", functions=False)  # for a caller that scores nothing


BOMB = "a: &a [1]\n" + "".join(f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12))


@pytest.mark.parametrize("text", ["a: &a [*a]", "[" * 3000, BOMB, "- 1", "x" * 2_000_000, "reward: {_target_: {a: 1}}", ": : :"])
def test_hostile_configurations_are_refused_at_once(tmp_path, text):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"config\.yaml|reward"):
        settings_of_run(tmp_path)


@pytest.mark.parametrize("name", ["os:system", "torch:os.system"])
def test_functions_of_python_itself_are_no_rewards(name):
    with pytest.raises(ValueError, match="part of Python itself"):
        load_function(name)
