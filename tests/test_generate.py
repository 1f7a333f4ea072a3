"""Continuations from a finished run."""

from __future__ import annotations

import json
import shutil

import pytest

from grade_lightning.generate import generate, main, parse
from tests.entry import run_small


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_cache):
    patch = pytest.MonkeyPatch()
    patch.setenv("GRADE_CACHE", shared_cache)
    folder = tmp_path_factory.mktemp("run") / "run"
    run_small(folder, "optimizer.lr=1e-2", "max_steps=4", "data.policy_rows=64")
    yield folder
    patch.undo()


def test_before_is_the_reference_and_after_is_the_trained_policy(run):
    arguments = [f"run={run}", "prompt=I watched The Broken Garden.", "samples=4"]
    pairs = generate(parse(arguments))
    assert len(pairs) == 4
    assert all(pair["before"]["kl"] == 0 for pair in pairs)
    assert all(pair["after"]["kl"] > 0 for pair in pairs)
    assert len({pair["before"]["completion"] for pair in pairs}) > 1
    assert all(0 < pair[when]["reward"] < 1 for pair in pairs for when in ("before", "after"))
    again = generate(parse(arguments))
    assert again == pairs
    assert generate(parse([*arguments, "seed=1"])) != pairs


def test_details_of_a_run(run):
    """Perplexity and the completion's own reward against a plain computation with transformers."""
    results = json.loads((run / "results.json").read_text())
    for split in ("initial", "test"):
        kept = results[split]["per_prompt"]
        assert {"reward", "kl", "perplexity", "completion_reward", "distinct_1", "distinct_2", "repeated_4", "judge"} <= kept.keys()
        assert all(len(values) == 24 for values in kept.values())
        assert results[split]["judge_mean"] == pytest.approx(sum(kept["judge"]) / 24, abs=1e-5)
    assert results["judge"]["heldout_accuracy_reviews"] > 0.8


def test_the_kept_head_needs_no_reviews_and_judges_are_asked_for(run, tmp_path, monkeypatch):
    """The same rewards as a head that is trained on the reviews again; reviews are split only where a judge is wanted."""
    arguments = ["prompt=I watched The Broken Garden.", "samples=2"]
    kept = generate(parse([f"run={run}", *arguments]))
    judged = generate(parse([f"run={run}", *arguments, "judges=true"]))
    assert [{key: value for key, value in pair["after"].items() if key != "judge"} for pair in judged] == [pair["after"] for pair in kept]
    assert "judge" in judged[0]["after"]
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "reward_head.safetensors").unlink()
    assert generate(parse([f"run={tmp_path / 'run'}", *arguments])) == kept
    monkeypatch.setattr("grade_lightning.inputs.make_splits", None)
    assert generate(parse([f"run={run}", *arguments])) == kept
    with pytest.raises(TypeError):
        generate(parse([f"run={tmp_path / 'run'}", *arguments]))


def test_command_shows_texts_and_numbers(run, capsys):
    assert main([f"run={run}", "prompt=The film was shot in 1983."]) == 0
    out = capsys.readouterr().out
    assert "The film was shot in 1983." in out
    assert "before" in out
    assert "after" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["prompt=x"], "run=DIR"), (["run={missing}", "prompt=x"], "not a run folder"), (["run={run}"], "beginning of a review"),
     (["run={run}", "prompt=x", "checkpoint=third"], "last, best"), (["run={run}", "prompt=x", "samples=many"], "whole number"),
     (["run={run}", "prompt=x", "speed=1"], "not understood"), (["run={run}", "prompt=x", "samples=0"], "at least 1"),
     (["run={run}", "prompt=x", "judges=yes"], "neither true nor false"),
     (["run={run}", "prompt=x", "columns=[4]"], "columns=[4] is no JSON object")],
)  # fmt: skip
def test_requests_that_cannot_be_met(run, arguments, message, tmp_path, capsys):
    assert main([argument.format(run=run, missing=tmp_path / "missing") for argument in arguments]) == 2
    assert message in capsys.readouterr().err


def test_records_without_weights(run, tmp_path, capsys):
    shutil.copy(run / "config.yaml", tmp_path)
    assert main([f"run={tmp_path}", "prompt=x"]) == 2
    assert "kept no such checkpoint" in capsys.readouterr().err


def test_adapter_of_another_model_is_refused(run, tmp_path):
    from safetensors.torch import load_file, save_file

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    file = copy / "checkpoints" / "last" / "adapter_model.safetensors"
    state = load_file(file)
    state.pop(next(iter(state)))
    save_file(state, file)
    with pytest.raises(ValueError, match="another model"):
        generate(parse([f"run={copy}", "prompt=x"]))
