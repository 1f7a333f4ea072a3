"""Runs that start from an adapter."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from grade_lightning.compose import composed, config_hash, resolved
from grade_lightning.export import export
from grade_lightning.models.adapters import read_adapter
from grade_lightning.records.identity import run_hash
from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.variants import group
from grade_lightning.setup import objects
from grade_lightning.training.course import Course
from grade_lightning.training.recorder import StepRecorder
from tests.conftest import make_policy
from tests.entry import compose_run, run_small
from tests.exporting.conftest import QUICK
from tests.reporting.test_report import write_run

OPTIONS = [*QUICK, "optimizer.lr=1e-2"]


def last(run: Path) -> Path:
    return run / "checkpoints" / "last"


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(last(run) / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def continued(trained, tmp_path_factory):
    """A run from the weights that another ended with."""
    folder = tmp_path_factory.mktemp("continued") / "run"
    return folder, run_small(folder, *OPTIONS, f"run.adapter={last(trained)}")


def test_step_0_is_where_the_other_run_ended_and_the_reference_is_the_base(trained, continued):
    before, results = json.loads((trained / "results.json").read_text()), continued[1]
    ended, began = before["validation"][-1], results["validation"][0]
    assert {key: began[key] for key in ended if key != "step"} == {key: ended[key] for key in ended if key != "step"}
    assert began["kl_mean"] > 0
    assert results["initial"] == before["initial"]
    assert results["initial"]["kl_mean"] == 0
    assert results["adapter_fingerprint"] == read_adapter(last(trained)).fingerprint
    moved, start = weights(continued[0]), weights(trained)
    assert any(not torch.equal(moved[name], start[name]) for name in start)


def test_an_exported_adapter_starts_the_same_run(trained, continued, tmp_path):
    out = export(trained, tmp_path / "critic")
    again = run_small(tmp_path / "run", *OPTIONS, f"run.adapter={out}")
    assert again["adapter_fingerprint"] == continued[1]["adapter_fingerprint"]
    assert again["test"] == continued[1]["test"]


def test_only_a_run_with_one_has_another_hash(tmp_path):
    """And it knows the folder by its last part, as it knows all folders; a run's by the run's name too."""
    plain, here, there, other, of_run, of_other, of_run_there = (
        composed([*start, f"run.dir={tmp_path}"])
        for start in ([], *([f"run.adapter={path}"] for path in (
            "/a/b/critic", "c/critic", "/a/b/poet", "/a/run1/checkpoints/last", "/a/run2/checkpoints/last", "run1/checkpoints/last/")))
    )  # fmt: skip
    values = resolved(plain)
    del values["run"]["adapter"]
    assert config_hash(plain) == run_hash(values) == run_hash({key: value for key, value in values.items() if key != "run"})
    assert config_hash(here) == config_hash(there) == run_hash(resolved(here))
    assert config_hash(of_run) == config_hash(of_run_there)
    assert len({config_hash(cfg) for cfg in (plain, here, other, of_run, of_other)}) == 5
    assert config_hash(here, without=("seed",)) == run_hash(resolved(here), without=("seed",)) != config_hash(plain, without=("seed",))


def test_a_finished_run_of_other_weights_of_the_same_name_is_not_taken_for_this_one(trained, continued, tmp_path):
    folder, results = continued
    assert run_small(folder, *OPTIONS, f"run.adapter={last(trained)}") == results
    copy = tmp_path / trained.name
    shutil.copytree(trained, copy)
    file = last(copy) / "adapter_model.safetensors"
    save_file({name: weight * 2 for name, weight in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="a finished run of another starting adapter of the same name"):
        run_small(folder, *OPTIONS, f"run.adapter={last(copy)}")


def test_a_checkpoint_wins_over_the_adapter_that_the_run_began_with(trained, continued, tmp_path, monkeypatch, caplog):
    """Stopped after the first of two steps, the run goes on from there and ends as if it had not been stopped."""
    caplog.set_level("INFO")
    folder, save = tmp_path / "run", StepRecorder._save_checkpoint

    def stop(recorder, trainer):
        save(recorder, trainer)
        raise KeyboardInterrupt

    options = [*OPTIONS, f"run.adapter={last(trained)}", "run.checkpoint_every=1"]
    with monkeypatch.context() as patch:
        patch.setattr(StepRecorder, "_save_checkpoint", stop)
        with pytest.raises(BaseException, match="") as stopped:  # which one is Lightning's choice
            run_small(folder, *options)
    assert not isinstance(stopped.value, ValueError | TypeError)
    assert not (folder / "results.json").exists()
    results = run_small(folder, *options)
    assert "going on with the unfinished run" in caplog.text
    assert results["test"] == continued[1]["test"]
    assert results["validation"] == continued[1]["validation"]
    assert all(torch.equal(weight, weights(continued[0])[name]) for name, weight in weights(folder).items())


def test_an_unfinished_run_does_not_go_on_with_other_weights(trained, tmp_path, monkeypatch):
    shutil.copytree(last(trained), tmp_path / "last")
    monkeypatch.setattr(Course, "run", lambda self: self.folder.append_metrics({"step": 1}) or 1 / 0)
    options = [*OPTIONS, f"run.adapter={tmp_path / 'last'}"]
    with pytest.raises(ZeroDivisionError):
        run_small(tmp_path / "run", *options)
    file = tmp_path / "last" / "adapter_model.safetensors"
    save_file({name: weight * 2 for name, weight in load_file(file).items()}, file)
    (tmp_path / "run" / "checkpoints").mkdir()
    (tmp_path / "run" / "checkpoints" / "resume.ckpt").write_bytes(b"")
    with pytest.raises(ValueError, match=r"began with other inputs of the same names \(adapter\)"):
        run_small(tmp_path / "run", *options)


def test_reports_do_not_pool_runs_that_began_elsewhere(tmp_path):
    """Seed 1 is of a version that could not choose: it belongs to runs without an adapter, whichever others there are."""
    begins = (("", None), ("run:\n  adapter: null\n", None), ("run:\n  adapter: a/critic\n", "aa"), ("run:\n  adapter: b/critic\n", "bb"))
    for seed, (text, fingerprint) in enumerate(begins, start=1):
        folder = write_run(tmp_path, "rloo", seed, variant_hash="with" if fingerprint else "without", adapter_fingerprint=fingerprint)
        (folder / "config.yaml").write_text(f"seed: {seed}\nkl_coef: 0.1\n{text}")
    assert sorted([run.seed for run in variant.runs] for variant in group(read_runs(tmp_path)[0])) == [[1, 2], [3], [4]]
    shutil.rmtree(tmp_path / "rloo-2")
    assert sorted([run.seed for run in variant.runs] for variant in group(read_runs(tmp_path)[0])) == [[1], [3], [4]]


def refusal(monkeypatch, *overrides: str) -> str:
    """What a run says before it loads anything."""
    monkeypatch.setattr("grade_lightning.setup.load_base", lambda *_, **__: pytest.fail("something was loaded"))
    monkeypatch.setattr("grade_lightning.setup.pretrained_folder", lambda *_, **__: pytest.fail("something was made"))
    with pytest.raises(ValueError) as error:
        run_small(Path("unused"), *OPTIONS, *overrides)
    return str(error.value)


def test_adapters_that_do_not_fit_are_refused_before_anything_is_loaded(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = f"run.adapter={last(trained)}"
    assert "model.lora.r is 8 and the adapter's is 16" in refusal(monkeypatch, start, "model.lora.r=8")
    assert "model.lora.alpha is 16 and the adapter's is 32" in refusal(monkeypatch, start, "model.lora.alpha=16")
    found = refusal(monkeypatch, start, "model.lora.target_modules=[q_proj]")
    assert "the adapter has ['k_proj', 'o_proj', 'q_proj', 'v_proj']" in found
    assert "missing holds no adapter in PEFT's layout" in refusal(monkeypatch, "run.adapter=missing")
    assert "has no adapter_config.json: give checkpoints/last" in refusal(monkeypatch, f"run.adapter={trained}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [({"use_dora": True}, "use_dora=True"), ({"use_rslora": True}, "use_rslora=True"), ({"peft_type": "IA3"}, "no LoRA but IA3"),
     ({"rank_pattern": {"q_proj": 4}}, "rank_pattern"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")],
)  # fmt: skip
def test_adapters_of_another_kind_are_refused(trained, tmp_path, monkeypatch, change, message):
    shutil.copytree(last(trained), tmp_path / "last")
    file = tmp_path / "last" / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    assert message in refusal(monkeypatch, f"run.adapter={tmp_path / 'last'}")


def test_files_that_are_no_adapter(trained, tmp_path, monkeypatch):
    shutil.copytree(last(trained), tmp_path / "last")
    (tmp_path / "last" / "adapter_config.json").write_text("{")
    assert "cannot be read" in refusal(monkeypatch, f"run.adapter={tmp_path / 'last'}")
    (tmp_path / "last" / "adapter_config.json").write_text("[]")
    assert "cannot be read" in refusal(monkeypatch, f"run.adapter={tmp_path / 'last'}")
    (tmp_path / "last" / "adapter_model.safetensors").write_bytes(b"\x80\x04K\x01.")
    assert "cannot be read" in refusal(monkeypatch, f"run.adapter={tmp_path / 'last'}")


def test_layers_that_a_policy_lacks_are_refused(model_folder, tmp_path):
    """The settings leave the layers to the architecture, so the weights show it."""
    policy = make_policy(model_folder)[1]
    policy.save_adapter(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    state = load_file(file)
    name = next(name for name in state if "q_proj.lora_A" in name)
    save_file({**state, name.replace("self_attn.q_proj", "mlp.up_proj"): state[name].clone()}, file)
    with pytest.raises(ValueError, match=r"there is no layer for .*up_proj.* and 0 more"):
        policy.load_adapter(file)


def test_a_continued_run_generates_and_is_exported_without_the_folder_it_began_with(continued, tmp_path):
    from grade_lightning.generate import generate, parse

    copy = tmp_path / "run"
    shutil.copytree(continued[0], copy)
    config = yaml.safe_load((copy / "config.yaml").read_text())
    config["run"]["adapter"] = "/nowhere/last"
    (copy / "config.yaml").write_text(yaml.safe_dump(config))
    pairs = generate(parse([f"run={copy}", "prompt=The film was shot in 1983."]))
    assert pairs[0]["after"]["kl"] > pairs[0]["before"]["kl"] == 0
    card = (export(copy, tmp_path / "out") / "README.md").read_text()
    assert f"an adapter (fingerprint `{continued[1]['adapter_fingerprint']}`), not from the base" in card
    assert "adapter: last" in card
    assert "/nowhere" not in card


def test_objects_start_there_too(trained):
    """Studies and notebooks that make a run's objects get its starting weights."""
    from grade_lightning.compose import settings_of
    from grade_lightning.setup import inputs
    from tests.entry import SMALL, SMALL_LM

    cfg = compose_run([*SMALL, *SMALL_LM, *OPTIONS, f"run.adapter={last(trained)}"], Path("unused"))
    policy = objects(inputs(settings_of(cfg)), judges=False).policy
    state = weights(trained)
    for name, weight in policy.trainable().items():
        assert torch.equal(weight, state[name.replace(".default", "")])
