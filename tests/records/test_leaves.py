"""Nested results as rows."""

from __future__ import annotations

import json
from pathlib import Path

import pandas
import pytest

from grade_lightning.records.leaves import add_leaves, read_leaves, write_leaves

NESTED = {
    "a": {"b": [0.1 + 0.2, 1, True, None, "text", [], {}, [[2.0]]], "0": 3e-320}, "whole": 1.0, "integer": 1, "large": 2**70,
    "never": "never",
}  # fmt: skip


def test_nested_results_come_back_to_the_digit(tmp_path):
    write_leaves(tmp_path / "file.parquet", {"first/x": NESTED, "second": [1.5], "third": 2})
    assert repr(read_leaves(tmp_path / "file.parquet")) == repr({"first/x": NESTED, "second": [1.5], "third": 2})
    frame = pandas.read_parquet(tmp_path / "file.parquet")
    assert frame.number[frame.path.map(list).eq([["a", "b", "[0]"]] * len(frame))].tolist() == [0.1 + 0.2]


def test_adding_keeps_the_others(tmp_path):
    path = tmp_path / "file.parquet"
    assert read_leaves(path) == {}
    for record, value in (("x", 1.0), ("y", 2.0), ("x", 3.0)):
        add_leaves(path, record, {"value": value})
    assert read_leaves(path) == {"x": {"value": 3.0}, "y": {"value": 2.0}}


def test_keys_that_would_be_read_as_places_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no place in a list"):
        write_leaves(tmp_path / "file.parquet", {"x": {"[0]": 1.0}})
    assert list(tmp_path.iterdir()) == []


def test_other_parquet_files_are_refused(tmp_path):
    pandas.DataFrame({"record": ["x"]}).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(ValueError, match="no nested results"):
        read_leaves(tmp_path / "data.parquet")


def test_the_committed_files_are_read():
    experiments = Path(__file__).parents[2] / "experiments"
    gradients = read_leaves(experiments / "gradient_quality" / "gradients.parquet")
    assert {name.split("/")[0] for name in gradients} == {"checkpoints", "no_hop_over_all", "alarm"}
    assert json.dumps(read_leaves(experiments / "estimator_lab" / "results.parquet")["results"]["one_step"], allow_nan=False)
