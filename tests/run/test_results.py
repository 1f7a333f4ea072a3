"""Whole runs, from configuration to results, and what is refused before them."""

import csv
import json
from pathlib import Path

import pytest
import torch
import yaml

from grade_lightning.run import execute
from tests.entry import SMALL, SMALL_LM, compose_run, run_small


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [{name: value for name, value in row.items() if name != "train/seconds"} for row in csv.DictReader(stream)]


def test_results(finished):
    folder, results = finished
    assert json.loads((folder / "results.json").read_text()) == results
    assert {key: results[key] for key in ("method", "seed", "protocol", "model", "data", "steps")} == {
        "method": "grade_ste", "seed": 1, "protocol": "controlled", "model": "tiny", "data": "synthetic", "steps": 2,
    }  # fmt: skip
    for split in ("initial", "test"):
        assert results[split]["n"] == 24 == len(results[split]["per_prompt"]["reward"])
        mean = sum(results[split]["per_prompt"]["reward"]) / 24
        assert results[split]["reward_mean"] == pytest.approx(mean, abs=1e-5)
    assert results["initial"]["kl_mean"] == 0
    assert results["test"]["kl_mean"] > 0
    assert results["initial"]["per_prompt"]["prompt_id"] == results["test"]["per_prompt"]["prompt_id"]
    assert [validation["step"] for validation in results["validation"]] == [0, 1, 2]
    best = max(results["validation"], key=lambda validation: validation["reward_mean"])
    assert results["best_validation"]["reward_mean"] == best["reward_mean"]
    assert results["seconds"]["total"] >= results["seconds"]["fit"] > 0
    assert results["reward_head"]["heldout_accuracy_openings"] > 0.6


def test_metrics(finished):
    rows = rows_of(finished[0])
    assert [row["step"] for row in rows] == ["1", "2"]
    needed = ["reward", "loss", "kl", "grad_norm", "grad_norm_tensor_mean", "grad_norm_tensor_std", "tau"]
    assert all(float(row[f"train/{name}"]) is not None for row in rows for name in needed)
    assert all(row["val/reward_mean"] for row in rows)
    assert abs(float(rows[0]["train/kl"])) < 1e-6


def test_config_environment_and_samples(finished):
    folder, results = finished
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["rollout"]["max_new_tokens"] == 8
    assert "${" not in (folder / "config.yaml").read_text()
    assert json.loads((folder / "environment.json").read_text())["packages"]["torch"]
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert {sample["split"] for sample in samples} == {"initial", "validation", "test"}
    for split in ("initial", "test"):
        rewards = [sample["reward"] for sample in samples if sample["split"] == split]
        assert rewards == pytest.approx(results[split]["per_prompt"]["reward"], abs=1e-6)


def test_last_adapter_is_what_was_tested(finished, tmp_path):
    """Load the saved adapter with PEFT and score the test prompts again."""
    from safetensors.torch import load_file

    last = load_file(str(finished[0] / "checkpoints" / "last" / "adapter_model.safetensors"))
    assert any(value.abs().max() > 0 for name, value in last.items() if "lora_B" in name)
    assert (finished[0] / "checkpoints" / "best" / "adapter_config.json").exists()
    again = run_small(tmp_path / "again", "evaluation.validate_every=1")
    other = load_file(str(tmp_path / "again" / "checkpoints" / "last" / "adapter_model.safetensors"))
    assert all(torch.equal(last[name], other[name]) for name in last)
    assert again["test"]["per_prompt"] == finished[1]["test"]["per_prompt"]
    assert rows_of(tmp_path / "again") == rows_of(finished[0])


def test_best_adapter_is_the_one_of_the_best_validation(tmp_path, monkeypatch):
    """It is what a run that ends at that step ends with.

    Which step of a real run is best differs between processors, so the validation rewards are given here: the second of four is best.
    """
    from safetensors.torch import load_file

    from grade_lightning.training.recorder import StepRecorder

    record, given = StepRecorder.record_validation, {0: 0.2, 1: 0.3, 2: 0.6, 3: 0.5, 4: 0.4}

    def with_given_reward(recorder, method, step):
        method.last_evaluation = {**method.last_evaluation, "reward_mean": given[step]}
        record(recorder, method, step)

    monkeypatch.setattr(StepRecorder, "record_validation", with_given_reward)
    options = [
        "evaluation.validate_every=1",
        "evaluation.test=false",
        "protocol.anneal_steps=4",
        "optimizer.lr=3e-2",
        "optimizer.lr_decay_steps=4",
    ]
    whole = run_small(tmp_path / "whole", *options, "max_steps=4")
    assert whole["best_validation"] == {"step": 2, "reward_mean": 0.6}
    run_small(tmp_path / "short", *options, "max_steps=2")
    kept, ended, last = (
        load_file(str(tmp_path / folder / "adapter_model.safetensors"))
        for folder in ("whole/checkpoints/best", "short/checkpoints/last", "whole/checkpoints/last")
    )
    assert all(torch.equal(kept[name], ended[name]) for name in ended)
    assert any(not torch.equal(kept[name], last[name]) for name in last)


def test_evaluation_does_not_depend_on_its_batch_size(finished, tmp_path):
    other = run_small(tmp_path / "run", "evaluation.validate_every=1", "evaluation.batch_size=5")
    assert other["test"]["per_prompt"]["reward"] == pytest.approx(finished[1]["test"]["per_prompt"]["reward"], abs=2e-5)


def test_initial_reward_is_the_same_for_every_method(finished, tmp_path):
    soft = run_small(tmp_path / "run", "method=grade")
    assert soft["method"] == "grade"
    assert soft["initial"]["per_prompt"] == finished[1]["initial"]["per_prompt"]
    assert soft["test"]["per_prompt"] != finished[1]["test"]["per_prompt"]


def test_without_test_split(tmp_path):
    results = run_small(tmp_path / "run", "evaluation.test=false")
    assert "test" not in results
    assert "initial" not in results


def test_wandb_offline_writes_a_run_and_a_second_run_is_another(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    for name in ("a", "b"):
        run_small(tmp_path / name, "logger=wandb", "max_steps=1", "evaluation.test=false")
    runs = [next((tmp_path / name / "wandb").glob("offline-run-*")).name.rsplit("-", 1)[1] for name in ("a", "b")]
    assert runs[0] != runs[1]
    assert any((tmp_path / "a" / "wandb").glob("offline-run-*/run-*.wandb"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        pytest.param(
            ["hardware=a100", "effective_batch_size=16"],
            "hardware=cpu",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="right on a machine with a GPU"),
        ),
        (["rollout.top_k=5000"], "top_k=5000 is above the vocabulary size 900"),
        (["max_steps=0"], "max_steps=0 .command line.: it must be a whole number, at least 1"),
        (["evaluation.test_prompts=0"], "at least 1, or null"),
        (["hardware.grad_accumulation=9"], "cannot split 4 completions"),
        (["data.policy_rows=4000"], "data.policy_rows"),
        (["data=parquet"], "needs data.path"),
        (["data=parquet", "data.path={missing}"], "is not a folder"),
        (["reward.scope=everything"], "full, completion"),
        (["model=local", "model.path={missing}"], "is not a folder"),
        (["run.resume={missing}"], "holds no run"),
        (["method=hybrid", "effective_batch_size=4"], "multiple of 16"),
        (["protocol.kl_reduction=mean"], "token_mean, sequence"),
        (["method=ppo", "protocol.kl_in=reward"], "kl_estimator=k1"),
        (["method=ppo", "protocol.kl_alignment=shifted"], "leave it at correct"),
        (["optimizer.name=lion"], "adamw, sgd"),
        (["method=ppo", "optimizer.name=sgd"], "value head"),
        (["method=ppo", "method.epochs=0"], "method.epochs=0 .command line.: it must be a whole number, at least 1"),
    ],
)
def test_errors_say_what_to_do(tmp_path, overrides, message):
    small = [item for item in SMALL if not ("data=parquet" in overrides and item.startswith("data.source"))]
    lm = [] if "model=local" in overrides else SMALL_LM
    overrides = [override.format(missing=tmp_path / "missing") for override in overrides]
    with pytest.raises(ValueError, match=message):
        execute(compose_run([*small, *lm, *overrides], tmp_path / "run"))
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_bf16_on_a_cpu_without_it(monkeypatch, tmp_path):
    monkeypatch.setattr("grade_lightning.training.machine.cpu_has_bf16", lambda: False)
    with pytest.raises(ValueError, match=r"hardware\.precision=fp32"):
        run_small(tmp_path / "run", "hardware.precision=bf16")


def test_a_run_folder_is_never_overwritten(finished):
    with pytest.raises(ValueError, match="already holds a run"):
        run_small(finished[0])


def test_unwritable_run_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"set run.dir"):
        run_small(tmp_path / "file" / "run")


def test_vocabulary_mismatch_names_both_sizes(policy64):
    from tests.conftest import make_context, make_reward

    reward = make_reward(policy64)
    reward.vocabulary = 77
    with pytest.raises(ValueError, match=r"77 tokens .* 320"):
        make_context(policy64, reward).check()
