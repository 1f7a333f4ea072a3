"""Runs in one table file: nothing changes on the way there and back."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas
import pyarrow.parquet as pq
import pytest

from grade_lightning.records.from_folder import read_folder
from grade_lightning.records.study_table import Record, add, read_table, run_keys, write_table
from grade_lightning.records.text import json_text
from tests.reporting.test_report import write_run

ODD = 0.1 + 0.2  # needs all seventeen digits
RESULTS = {
    "method": "grade", "seed": 3, "protocol": "paper", "model": None, "data": "d", "steps": 2,
    "test": {"reward_mean": ODD, "per_prompt": {"prompt_id": [2**63 - 1, -(2**63), 7], "reward": [ODD, 5e-324, None], "mixed": [0, 0.5]}},
    "validation_per_prompt": {"reward": {"0": [1.0, 2.0], "60": [3.0]}}, "empty": [], "nested": [[1.0], [2.0]], "big": [2**70],
    "a/b": {"list": [1.0]}, "flags": [True, False], "nothing": [None], "text": "\u2028ä",
}  # fmt: skip


def record(name: str = "run", **changes) -> Record:
    values = {"config": {"lr": 3e-4, "betas": [0.9, 0.99]}, "environment": {"git_revision": "abc"}, "results": RESULTS}
    metrics = {"step": [1.0, 2.0], "train/reward": [ODD, -0.0], "val/reward_mean": [None, 1e300]}
    return Record("part", name, **{**values, "metrics": metrics, "samples": [{"split": "test", "reward": 0.5}], **changes})


def equal(first: object, second: object) -> bool:
    """Equal to the digit, integers and floats told apart, keys in the same order."""
    return repr(first) == repr(second)


def test_values_of_every_kind_come_back(tmp_path):
    write_table(tmp_path / "runs.parquet", [record()])
    (found,) = read_table(tmp_path / "runs.parquet")
    assert equal(found, record())


def test_runs_with_other_columns_and_other_types_of_numbers_do_not_disturb_each_other(tmp_path):
    whole = record("whole", results={"test": {"per_prompt": {"tokens": [1, 2]}}}, metrics={"step": [1.0]})
    parts = record("parts", results={"test": {"per_prompt": {"tokens": [1.5, 2.0]}}}, metrics={"train/new": [None, 1.0]})
    for records in ([whole, parts], [parts, whole]):
        path = tmp_path / f"{records[0].name}.parquet"
        for each in records:
            add(path, each)
        assert equal(read_table(path), sorted(records, key=lambda r: r.key))
    write_table(tmp_path / "both.parquet", [whole, parts])
    assert equal(read_table(tmp_path / "both.parquet"), [parts, whole])


def test_folders_to_a_table_and_back(tmp_path):
    folders = [write_run(tmp_path, method, seed) for method in ("grade", "ppo") for seed in (1, 2)]
    (folders[0] / "metrics.csv").write_text("step,train/reward,val/reward_mean\n1,0.30000000000000004,\n2,1e-320,0.5\n")
    for folder in folders:
        add(tmp_path / "runs.parquet", read_folder(folder, "sweep", folder.name))
    for folder in folders:
        (found,) = read_table(tmp_path / "runs.parquet", part="sweep", name=folder.name)
        assert json_text(found.results) == json_text(json.loads((folder / "results.json").read_text()))
        assert equal(found, read_folder(folder, "sweep", folder.name))
    assert read_table(tmp_path / "runs.parquet", name="grade-1")[0].metrics == {
        "step": [1.0, 2.0], "train/reward": [0.30000000000000004, 1e-320], "val/reward_mean": [None, 0.5],
    }  # fmt: skip


def test_a_run_of_the_same_name_is_replaced_and_a_failure_loses_nothing(tmp_path):
    path = tmp_path / "runs.parquet"
    for name in ("b", "a"):
        add(path, record(name))
    add(path, replace(record("b"), environment={"git_revision": "later"}))
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        add(path, record("c", environment={"seconds": float("nan")}))
    assert path.read_bytes() == before
    assert [(r.name, r.environment["git_revision"]) for r in read_table(path)] == [("a", "abc"), ("b", "later")]
    assert run_keys(path) == {("part", "a"), ("part", "b")}
    assert run_keys(tmp_path / "none.parquet") == set()


ADD = """
import sys
from pathlib import Path
from grade_lightning.records.study_table import Record, add
for number in range(8):
    add(Path(sys.argv[1]), Record("part", f"{sys.argv[2]}{number}", {}, {}, {"numbers": [float(number)]}))
"""


def test_processes_that_add_at_once_lose_nothing(tmp_path):
    path = tmp_path / "runs.parquet"
    running = [subprocess.Popen([sys.executable, "-c", ADD, str(path), name], cwd=Path(__file__).parents[2]) for name in "xyz"]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert {r.name: r.results for r in read_table(path)} == {f"{n}{i}": {"numbers": [float(i)]} for n in "xyz" for i in range(8)}


def test_other_programs_read_it_and_it_says_what_it_holds(tmp_path):
    path = tmp_path / "runs.parquet"
    write_table(path, [record()])
    frame = pandas.read_parquet(path)
    assert (frame.method[0], frame.seed[0], frame.test_reward[0], frame.git_revision[0]) == ("grade", 3, ODD, "abc")
    assert frame["metrics/train/reward"][0].tolist() == [ODD, -0.0]
    assert frame["results/test/per_prompt/prompt_id"][0].tolist() == RESULTS["test"]["per_prompt"]["prompt_id"]
    schema = pq.read_schema(path)
    assert b"one row a run" in schema.metadata[b"about"].lower()
    assert all(field.metadata[b"description"] for field in schema)


def test_what_is_no_table_or_no_whole_run_is_refused(tmp_path):
    pandas.DataFrame({"part": ["x"], "text": ["review"]}).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="no table of runs"):
        read_table(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="same part and name"):
        write_table(tmp_path / "twice.parquet", [record(), record()])
    folder = write_run(tmp_path, "grade", 1)
    (folder / "metrics.csv").write_text("step,train/reward\n1,many\n")
    with pytest.raises(ValueError, match="remove the folder to run it again"):
        read_folder(folder, "part", "name")
