"""Commands as users give them: help, errors, searches, sweeps, pretraining."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.entry import SMALL, SMALL_LM


def python(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, timeout=600, check=False)


def test_help_explains_the_groups_from_any_folder(tmp_path):
    done = python("-m", "grade_lightning.run", "--help", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "grade, grade_ste" in next(line for line in done.stdout.splitlines() if line.startswith("  method: "))
    assert "what is maximised" in done.stdout


def test_error_on_the_command_line_is_one_message(tmp_path):
    done = python("-m", "grade_lightning.run", "data=parquet", cwd=tmp_path)
    assert done.returncode != 0
    assert "needs data.path=FOLDER" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@pytest.mark.slow
def test_learning_rate_search(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")
    done = python("-m", "grade_lightning.run", "-m", "hparams_search=lr", "method=rloo", "hydra.sweeper.n_trials=2",
                  *SMALL, *SMALL_LM, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    best = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())
    runs = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/results.json")]
    assert len(runs) == 2
    assert all("test" not in run for run in runs)
    assert best["best_value"] == pytest.approx(max(run["validation"][-1]["reward_mean"] for run in runs))


@pytest.mark.slow
def test_search_of_the_frontier(tmp_path):
    """Optuna's front is that of the runs; each run says how it ended; the report shows the front."""
    pytest.importorskip("hydra_plugins.hydra_optuna_sweeper", reason="needs the extra `optuna`")
    from grade_lightning.reporting.pareto import pareto_front

    done = python("-m", "grade_lightning.run", "-m", "hparams_search=frontier", "method=rloo", "hydra.sweeper.n_trials=4",
                  *SMALL, *SMALL_LM, f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    runs = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/results.json")]
    points = [(run["validation"][-1]["reward_mean"], run["validation"][-1]["kl_mean"]) for run in runs]
    assert len(points) == 4
    assert all("test" not in run for run in runs)
    front = [p for p in points if not any(o != p and o[0] >= p[0] and o[1] <= p[1] for o in points)]
    found = yaml.safe_load((tmp_path / "sweep" / "optimization_results.yaml").read_text())["solutions"]
    assert sorted(tuple(solution["values"]) for solution in found) == sorted(front)
    table = pareto_front(tmp_path)[0]["pareto"]
    assert [(row["reward"], row["kl"]) for row in table.rows] == sorted(front, key=lambda point: point[1])
    lines = [line for line in done.stdout.splitlines() if line.startswith("run ")]
    assert [line.split(" (")[0] for line in lines] == [f"run {number} of 4" for number in range(1, 5)]
    assert all("optimizer.lr=" in line and "kl_coef=" in line and "data." not in line for line in lines)
    assert [" left" in line for line in lines] == [True, True, True, False]


@pytest.mark.slow
def test_sweep(tmp_path):
    done = python("-m", "grade_lightning.run", "-m", "method=grade,grade_ste", "seed=1,2", *SMALL, *SMALL_LM,
                  f"hydra.sweep.dir={tmp_path / 'sweep'}", cwd=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = [json.loads(file.read_text()) for file in (tmp_path / "sweep").glob("*/results.json")]
    assert {(result["method"], result["seed"]) for result in results} == {(m, s) for m in ("grade", "grade_ste") for s in (1, 2)}
    names = {file.parent.name for file in (tmp_path / "sweep").glob("*/results.json")}
    assert {name.rsplit("-", 1)[0] for name in names} == {"grade-seed1", "grade-seed2", "grade_ste-seed1", "grade_ste-seed2"}
    assert {result["config_hash"] for result in results} == {name.rsplit("-", 1)[1] for name in names}
    assert all((tmp_path / "sweep" / name / "run.log").exists() for name in names)
    for number, varied in enumerate(["grade seed=1", "grade seed=2", "grade_ste seed=1", "grade_ste seed=2"], 1):
        assert f"run {number} of 4 (method={varied}): validation reward " in done.stdout
    assert not list((tmp_path / "sweep").glob(".ended*"))


@pytest.mark.slow
def test_pretrain_entry(tmp_path):
    small = [item.replace("model.pretrain.", "pretrain.") for item in SMALL_LM]
    done = python("-m", "grade_lightning.pretrain", *small, "data.source.unsupervised_rows=300", f"out={tmp_path / 'lm'}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "perplexity" in done.stdout
    assert (tmp_path / "lm" / "model.safetensors").exists()
