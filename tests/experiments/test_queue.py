"""The studies' queue keeps what was finished; a small process stands for a run."""

from __future__ import annotations

import sys
from pathlib import Path

from experiments.frontier import study as frontier
from experiments.queue import Cell, Queue, ran_with
from grade_lightning.records.study_table import read_table, run_keys
from tests.reporting.test_report import write_run

RUN = """
import json, shutil, sys
from pathlib import Path
made, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
if name == "fails":
    sys.exit(1)
shutil.copytree(made, folder, dirs_exist_ok=True)
(folder / "environment.json").write_text(json.dumps({"command": ["python", *sys.argv[4:]], "git_revision": "abc"}))
if name == "broken":
    (folder / "metrics.csv").unlink()
"""


class SmallQueue(Queue):
    def command(self, cell, folder):
        made = self.work.parent / "made" / "grade-1"
        return [sys.executable, "-c", RUN, str(made), str(folder), cell.name, *self.common, *self.paths, *cell.overrides]


def queue(tmp_path: Path) -> SmallQueue:
    if not (tmp_path / "made").exists():
        write_run(tmp_path / "made", "grade", 1, validation=[{"step": 0, "reward_mean": 0.4, "kl_mean": 0.0}])
    return SmallQueue(("max_steps=3",), str(tmp_path / "data"), str(tmp_path / "model"), tmp_path / "work")


def test_finished_runs_are_kept_two_at_once_and_failures_lose_nothing(tmp_path, capsys):
    table = tmp_path / "runs.parquet"
    cells = [Cell(table, "part", name, (f"name={name}",)) for name in ("fails", "a", "broken", "b", "c")]
    queue(tmp_path).run_all(cells, jobs=2)
    assert run_keys(table) == {("part", "a"), ("part", "b"), ("part", "c")}
    said = capsys.readouterr().out
    assert "part/fails failed" in said
    assert "part/broken is finished but was not kept" in said
    assert (tmp_path / "work" / "part" / "broken" / "results.json").exists()
    (found,) = read_table(table, name="a")
    assert found.environment["command"][1:] == ["max_steps=3", "data.path=IMDB_FOLDER", "model.path=LM_FOLDER", "name=a"]
    assert str(tmp_path) not in str(found)


def test_a_kept_run_is_not_run_again_but_other_settings_are_named(tmp_path, capsys):
    table = tmp_path / "runs.parquet"
    cell = Cell(table, "part", "a", ("lr=1",))
    queue(tmp_path).run(cell)
    before = table.read_bytes()
    queue(tmp_path).run(cell)
    assert "without" not in capsys.readouterr().out
    queue(tmp_path).run(Cell(table, "part", "a", ("lr=2",)))
    assert "made without lr=2" in capsys.readouterr().out
    assert table.read_bytes() == before


def test_a_record_has_what_its_command_or_its_defaults_said():
    """The mixture's first records name neither its policy gradient, which there was no choice of, nor its hops, which were the default."""
    (record,) = read_table(Path(frontier.__file__).with_name("runs.parquet"), part="slow", name="annealed-beta0.2-seed1")
    for override in ("method=annealed", "kl_coef=0.2", "method.max_hops=null", "method.policy_gradient=rloo", "max_steps=180"):
        assert ran_with(record, override), override
    for override in ("method=rloo", "kl_coef=0.5", "method.max_hops=0", "method.policy_gradient=grpo", "max_steps=90", "no.such=key"):
        assert not ran_with(record, override), override
