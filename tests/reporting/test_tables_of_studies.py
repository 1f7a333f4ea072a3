"""Reports from table files: the same as from folders, and the committed tables to the digit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.gradient_quality.study import curve_runs
from experiments.imdb_small.study import METHODS
from grade_lightning.records.from_folder import read_folder
from grade_lightning.records.leaves import read_leaves
from grade_lightning.records.study_table import write_table
from grade_lightning.report import main
from grade_lightning.reporting.output import tables
from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.table2 import table2
from grade_lightning.reporting.variants import group
from grade_lightning.study.output import from_json, table
from tests.reporting.test_report import write_run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
IMDB_SMALL = EXPERIMENTS / "imdb_small"


@pytest.mark.parametrize("part", ["controlled", "rates"])
def test_committed_tables_are_made_from_the_committed_records(part):
    made = tables(group(read_runs(IMDB_SMALL / "runs.parquet", part=part)[0]))
    committed = sorted((IMDB_SMALL / "report" / part).glob("*.md"))
    assert committed
    for file in committed:
        assert made[file.stem].markdown() == file.read_text(), file


def test_committed_tables_of_runs_of_two_studies():
    made = {**tables(group(curve_runs())), "all_pairs": table2(group(curve_runs(METHODS)))}
    for file in sorted((EXPERIMENTS / "gradient_quality" / "report").glob("*.md")):
        assert made[file.stem].markdown() == file.read_text(), file


@pytest.mark.parametrize("checkpoint", ["initial", "rloo", "grade_ste"])
def test_committed_gradient_tables_are_made_from_the_committed_records(checkpoint):
    folder = EXPERIMENTS / "gradient_quality"
    found = from_json(read_leaves(folder / "gradients.parquet")[f"checkpoints/{checkpoint}"])
    assert table(found).markdown() == (folder / "checkpoints" / checkpoint / "table.md").read_text()


def test_a_table_file_is_reported_as_its_folders_are(tmp_path):
    folders = [
        write_run(tmp_path / "runs", method, seed, shift=shift) for method, shift in (("grade", 0.1), ("ppo", 0.2)) for seed in (1, 2)
    ]
    (folders[0] / "metrics.csv").write_text("step,train/reward\n1,0.1\n2,\n")
    write_table(tmp_path / "study" / "runs.parquet", [read_folder(folder, "part", folder.name) for folder in folders])
    reports = []
    for place in (tmp_path / "runs", tmp_path / "study" / "runs.parquet", tmp_path / "study"):
        assert main([str(place), "--out", str(tmp_path / "out")]) == 0
        found = json.loads((tmp_path / "out" / "report.json").read_text())
        assert len(found.pop("runs")) == 4
        assert any("no number in some steps" in warning or "lacks" in warning for warning in found["warnings"])
        reports.append(found)
    assert reports[0] == reports[1] == reports[2]


def test_a_part_alone(tmp_path, capsys):
    folder = write_run(tmp_path / "runs", "grade", 1)
    write_table(tmp_path / "runs.parquet", [read_folder(folder, part, "grade-1") for part in ("first", "second")])
    assert len(read_runs(tmp_path / "runs.parquet")[0]) == 2
    assert [run.folder.parent.name for run in read_runs(tmp_path / "runs.parquet", part="second")[0]] == ["second"]
    assert main([str(tmp_path / "runs.parquet"), "--part", "third", "--out", str(tmp_path / "out")]) == 2
    assert "no finished run" in capsys.readouterr().err


def test_files_that_are_no_tables_are_passed_over_in_folders_and_refused_alone(tmp_path, capsys):
    write_run(tmp_path / "runs", "grade", 1)
    (tmp_path / "runs" / "damaged.parquet").write_bytes(b"PAR1")
    assert len(read_runs(tmp_path / "runs")[0]) == 1
    for name in ("damaged.parquet", "grade-1/results.json"):
        assert main([str(tmp_path / "runs" / name), "--out", str(tmp_path / "out")]) == 2
        assert "give a study's table file" in capsys.readouterr().err
