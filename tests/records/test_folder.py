"""The run folder's files."""

import csv
import json

import pytest

from grade_lightning.evaluation.evaluator import EvaluatedPrompt
from grade_lightning.records.folder import RunFolder, metrics_row
from grade_lightning.training.environment import environment


def test_metrics_keep_their_columns_and_accept_new_ones(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.append_metrics({"step": 1, "train/reward": 0.5})
    folder.append_metrics({"step": 2, "train/reward": 0.6})
    folder.append_metrics({"step": 3, "train/reward": 0.7, "val/x": 1})
    folder.append_metrics({"step": 4, "train/reward": 0.8})
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["val/x"] for row in rows] == ["", "", "1", ""]


def test_row_has_blank_validation_columns_without_validation():
    row = metrics_row(3, {"reward": 0.5, "new": 1.0}, None)
    assert row["train/reward"] == 0.5
    assert row["train/new"] == 1.0
    assert row["val/reward_mean"] == ""


def test_whole_files_appear_at_once(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write_json("results.json", {"a": 1})
    assert json.loads((tmp_path / "results.json").read_text()) == {"a": 1}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["results.json"]


def test_unwritable_folder_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match=r"set run\.dir"):
        RunFolder(tmp_path / "file" / "run")


def test_environment_names_versions_and_no_secrets(monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "very-secret")
    found = environment()
    assert found["packages"]["torch"]
    assert "very-secret" not in json.dumps(found)


def test_a_run_goes_on_with_what_it_began_with(tmp_path):
    folder, inputs = RunFolder(tmp_path), {"base LM": "ab", "reviews": {"test": "cd"}}
    folder.begin({"run_id": "x"}, inputs, again=False)
    began = json.loads((tmp_path / "environment.json").read_text())
    assert began == {"run_id": "x", "inputs": inputs}
    folder.begin(began, inputs, again=True)
    with pytest.raises(ValueError, match=r"other inputs of the same names \(base LM, reviews\): set run\.dir"):
        folder.begin(began, {"base LM": "ba", "reviews": {"test": "dc"}}, again=True)
    folder.begin({"run_id": "x"}, inputs, again=True)  # of an earlier version, which did not note them
    assert json.loads((tmp_path / "environment.json").read_text()) == began


def test_rewind_keeps_whole_lines_whatever_reviews_contain(tmp_path):
    """Characters at which ``str.splitlines`` breaks a line, and a last line cut short."""
    folder = RunFolder(tmp_path)
    for step in (0, 4, 8):
        prompt = EvaluatedPrompt(0, 7, 1, 0.5, 0.0, 2, False, (1, 2), "far worse)\x85 more so\u2028", "text\u2029")
        folder.append_samples("validation", step, [prompt.sample()])
        folder.append_metrics({"step": step + 1, "train/reward": 0.5})
    with (tmp_path / "samples.jsonl").open("a") as stream:
        stream.write('{"split": "vali')
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("12")
    folder.rewind(6, validated=[0, 4])
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().split("\n")[:-1]]
    assert [sample["step"] for sample in samples] == [0, 4]
    assert samples[0]["prompt"].endswith("\u2028")
    assert (tmp_path / "metrics.csv").read_text() == "step,train/reward\n1,0.5\n5,0.5\n"
    folder.rewind(0)
    assert not (tmp_path / "samples.jsonl").exists()
