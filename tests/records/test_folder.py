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
    for step in (0, 1, 2, 3):
        prompt = EvaluatedPrompt(0, 7, 1, 0.5, 0.0, 2, False, (1, 2), "far worse)\x85 more so\u2028", "text\u2029")
        folder.append_samples("validation", step, [prompt.sample()])
        folder.append_metrics({"step": step + 1, "train/reward": 0.5})
    with (tmp_path / "samples.jsonl").open("a") as stream:
        stream.write('{"split": "vali')
    with (tmp_path / "metrics.csv").open("a") as stream:
        stream.write("12")
    (tmp_path / ".results.json.ab.partial").write_text("{")
    folder.rewind(2, validated={0: 1, 1: 1})
    assert not (tmp_path / ".results.json.ab.partial").exists()
    samples = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().split("\n")[:-1]]
    assert [sample["step"] for sample in samples] == [0, 1]
    assert samples[0]["prompt"].endswith("\u2028")
    assert (tmp_path / "metrics.csv").read_text() == "step,train/reward\n1,0.5\n2,0.5\n"
    folder.rewind(0)
    assert not (tmp_path / "samples.jsonl").exists()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", None), ("metrics.csv", "step,a\n1,2\n3,2\n"), ("metrics.csv", "1,2\n2,2\n3,2\n"),
        ("metrics.csv", "step\n1\nx\n2\n"),
        ("samples.jsonl", None), ("samples.jsonl", '{"split": "validation", "step": 0}\n'), ("samples.jsonl", "\n"),
    ],
)  # fmt: skip
def test_a_record_that_was_damaged_is_named_before_a_run_goes_on_with_it(name, content, tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        folder.append_metrics({"step": step, "train/reward": 0.5})
    folder.append_samples("validation", 0, [{"prompt": "a"}, {"prompt": "b"}])
    folder.rewind(2, validated={0: 2})
    (tmp_path / name).unlink() if content is None else (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=rf"{name} is damaged .*: bring it back, or remove \S*resume.ckpt and give the same command again"):
        folder.rewind(2, validated={0: 2})
    folder.rewind(0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["", '{"config_hash": "x', "[]"])
def test_results_and_environment_that_were_damaged_are_named(content, tmp_path):
    for name in ("results.json", "environment.json"):
        (tmp_path / name).write_text(content)
    folder = RunFolder(tmp_path)
    with pytest.raises(ValueError, match=r"results.json is damaged .*: remove \S*results.json and give the same command again"):
        folder.finished("x")
    with pytest.raises(ValueError, match=r"environment.json is damaged .*: remove \S* to make the run again"):
        folder.started("x")
    (tmp_path / "environment.json").unlink()
    with pytest.raises(ValueError, match=r"without environment.json, which says of which run: remove"):
        folder.started("x")
