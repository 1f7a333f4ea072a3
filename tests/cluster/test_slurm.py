"""``launcher=slurm`` on a real Slurm of one machine (Debian's slurm-wlm and munge, and the extra `slurm`)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.entry import SMALL, SMALL_LM
from tests.training.test_processes import LAST, cache, finish, rows, start

assert cache  # the fixture

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel")
MISSING = [name for name in PROGRAMS if shutil.which(name) is None]
if importlib.util.find_spec("hydra_plugins.hydra_submitit_launcher") is None:
    MISSING.append("the extra `slurm`")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)} (apt-get install slurm-wlm munge)"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurm.sh runs its daemons as root"),
]
SCRIPT = Path(__file__).with_name("slurm.sh")
SMALL_JOBS = [
    "launcher=slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.mem_gb=null", "hydra.launcher.cpus_per_task=1",
    "hydra.launcher.timeout_min=10",
]  # fmt: skip


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    folder = tmp_path_factory.mktemp("slurm")
    subprocess.run(["sh", str(SCRIPT), "up", str(folder)], check=True, timeout=120, stdout=subprocess.DEVNULL)
    yield folder / "slurm.conf"
    subprocess.run(["sh", str(SCRIPT), "down", str(folder)], check=True, timeout=60)


@pytest.fixture(autouse=True)
def _cluster(slurm, monkeypatch):
    monkeypatch.setenv("SLURM_CONF", str(slurm))


def sweep(folder: Path, *overrides: str) -> list[str]:
    return ["-m", "grade_lightning.run", "-m", *SMALL, *SMALL_LM, *SMALL_JOBS, f"hydra.sweep.dir={folder}", *overrides]


def shown(job: str) -> str:
    return subprocess.check_output(["scontrol", "show", "job", job], text=True)


def test_a_sweep_is_made_of_jobs_and_its_report_is_whole(tmp_path):
    """top_k=5000 cannot work with 900 tokens: named at the end, and the others' results are there."""
    process = start(tmp_path, *sweep(tmp_path / "sweep", "method=rloo,grpo", "rollout.top_k=64,5000"))
    output = process.communicate(timeout=400)[0]
    assert process.returncode != 0
    assert "2 run(s) of this sweep failed" in output
    assert "above the vocabulary size 900" in output.split("of this sweep failed")[1]
    done = sorted((tmp_path / "sweep").glob("*/results.json"))
    assert [json.loads(file.read_text())["method"] for file in done] == ["grpo", "rloo"]
    assert len(list((tmp_path / "sweep" / ".submitit").glob("*/*_submission.sh"))) > 0


def made_so_far(folder: Path) -> Path | None:
    """The folder of a sweep's run, once it has recorded something."""
    found = list(folder.glob("rloo-*/metrics.csv"))
    return found[0].parent if found else None


def wait_for_rows(process: subprocess.Popen[str], folder: Path, least: int) -> None:
    while process.poll() is None and not ((made := made_so_far(folder)) and len(rows(made)) > least):
        time.sleep(0.1)


def wait_for_requeue(process: subprocess.Popen[str]) -> str:
    """The job, once it waits to begin again."""
    job = subprocess.check_output(["squeue", "--noheader", "--format=%A"], text=True).split()[0]
    while process.poll() is None and not ("Restarts=1" in shown(job) and "JobState=PENDING" in shown(job)):
        time.sleep(0.2)
    return job


def begin_now(process: subprocess.Popen[str], job: str) -> None:
    """Slurm would wait for two minutes; within the second in which it ended the job, the node refuses to begin it again."""
    time.sleep(2)
    while process.poll() is None and "Reason=BeginTime" in shown(job):
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
        time.sleep(1)


def assert_same(made: Path, whole: Path) -> None:
    """That a run which was interrupted is the one that was not."""
    assert rows(made) == rows(whole)
    left, right = load_file(str(made / LAST)), load_file(str(whole / LAST))
    assert all((left[name] == right[name]).all() for name in right)
    assert re.search(r"going on with the unfinished run", (made / "run.log").read_text())


def test_a_job_that_is_told_to_leave_is_queued_again_and_goes_on_bit_for_bit(tmp_path):
    options = ["method=rloo", "seed=3", "max_steps=60", "run.checkpoint_every=4", "evaluation.validate_every=20"]
    finish(start(tmp_path, "-m", "grade_lightning.run", *SMALL, *SMALL_LM, *options, f"run.dir={tmp_path / 'whole'}"))
    process = start(tmp_path, *sweep(tmp_path / "sweep", *options))
    wait_for_rows(process, tmp_path / "sweep", 8)
    job = subprocess.check_output(["squeue", "--noheader", "--format=%A"], text=True).split()[0]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # as Slurm does ahead of the time limit
    wait_for_requeue(process)
    made = made_so_far(tmp_path / "sweep")
    assert made is not None
    assert len(rows(made)) < 60
    begin_now(process, job)
    finish(process)
    assert_same(made, tmp_path / "whole")


SLOW = """
import pathlib, time
def score(completions, **_):
    if not pathlib.Path({hurry!r}).exists():
        time.sleep(3)
    return [sum(c in "aeiou" for c in text) / 9 for text in completions]
"""


def test_a_job_at_its_time_limit_is_queued_again_and_goes_on_bit_for_bit(tmp_path):
    """Nobody but Slurm says anything to the job.  Until it has done so, a policy step takes three seconds, and all 60 three minutes."""
    hurry = tmp_path / "hurry"
    hurry.touch()
    (tmp_path / "slow_of_test.py").write_text(SLOW.format(hurry=str(hurry)))
    options = [o for o in [*SMALL, *SMALL_LM] if not o.startswith("reward.head")]
    options += ["reward=function", "reward.function=slow_of_test:score", "method=rloo", "seed=3", "max_steps=60"]
    options += ["run.checkpoint_every=4", "evaluation.validate_every=20"]
    finish(start(tmp_path, "-m", "grade_lightning.run", *options, f"run.dir={tmp_path / 'whole'}"))
    hurry.unlink()
    limit = ["hydra.launcher.timeout_min=2", "hydra.launcher.signal_delay_s=30"]  # Slurm may be 60 seconds early
    jobs = [*SMALL_JOBS[:-1], *limit, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    process = start(tmp_path, "-m", "grade_lightning.run", "-m", *options, *jobs)
    wait_for_rows(process, tmp_path / "sweep", 8)
    job = wait_for_requeue(process)
    hurry.touch()
    made = made_so_far(tmp_path / "sweep")
    assert made is not None
    assert 8 < len(rows(made)) < 60
    begin_now(process, job)
    finish(process)
    assert_same(made, tmp_path / "whole")
    said = "".join(file.read_text() for file in (tmp_path / "sweep" / ".submitit").glob("*/*_log.err"))
    assert "this job is timed-out" in said
