"""Runs at several weights of the KL: their names, and how they ended; committed tables of the rewards are made from their records."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.rewards.report import write
from experiments.rewards.study import HERE, RECORDS
from experiments.weights import by_weight, ends, method_weight_seed
from grade_lightning.records.study_table import Record


def record(name: str, reward: float) -> Record:
    """A run that ended at a reward."""
    test = {"reward_mean": reward, "kl_mean": 0.1}
    initial = {"reward_mean": 0.5, "kl_mean": 0.0}
    return Record("part", name, {}, {}, {"initial": initial, "test": test}, {}, [])


def test_one_seed_of_everything_comes_before_the_next():
    cells = by_weight(Path("runs"), "part", {"a-b": ("method=a",), "c": ()}, {"a-b": ("1", "0.1"), "c": ("2",)}, (3, 4), ("x=1",))
    assert [cell.name for cell in cells] == [f"{name}-seed{seed}" for seed in (3, 4) for name in ("a-b-beta1", "a-b-beta0.1", "c-beta2")]
    assert cells[1].overrides == ("method=a", "x=1", "kl_coef=0.1", "seed=3")
    assert [method_weight_seed(record(cell.name, 0.5)) for cell in cells[:3]] == [("a-b", "1", 3), ("a-b", "0.1", 3), ("c", "2", 3)]


def test_ends_are_means_over_seeds_after_the_initial_policy():
    table = ends([record("a-beta1-seed1", 0.6), record("a-beta1-seed2", 0.8), record("a-beta0.1-seed1", 0.9)])
    assert [row["reward_mean"] for row in table.rows] == pytest.approx([0.5, 0.9, 0.7])
    assert [row["seeds"] for row in table.rows] == ["", "0.900", "0.600 0.800"]


def test_committed_tables_are_made_from_the_committed_records(tmp_path):
    write(RECORDS, tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.glob("*.md")}
    assert made == {file.name: file.read_text() for file in (HERE / "report").glob("*.md")}
    assert made
