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


def test_a_job_that_is_told_to_leave_is_queued_again_and_goes_on_bit_for_bit(tmp_path):
    options = ["method=rloo", "seed=3", "max_steps=60", "run.checkpoint_every=4", "evaluation.validate_every=20"]
    finish(start(tmp_path, "-m", "grade_lightning.run", *SMALL, *SMALL_LM, *options, f"run.dir={tmp_path / 'whole'}"))
    process = start(tmp_path, *sweep(tmp_path / "sweep", *options))

    def folder() -> Path | None:
        found = list((tmp_path / "sweep").glob("rloo-*/metrics.csv"))
        return found[0].parent if found else None

    while process.poll() is None and not ((made := folder()) and len(rows(made)) > 8):
        time.sleep(0.1)
    job = subprocess.check_output(["squeue", "--noheader", "--format=%A"], text=True).split()[0]
    subprocess.run(["scancel", "--signal=USR2", job], check=True)  # as Slurm does ahead of the time limit
    while process.poll() is None and not ("Restarts=1" in shown(job) and "JobState=PENDING" in shown(job)):
        time.sleep(0.2)
    made = folder()
    assert made is not None
    assert len(rows(made)) < 60
    while process.poll() is None and "Reason=BeginTime" in shown(job):  # Slurm would wait for two minutes
        subprocess.run(["scontrol", "update", f"JobId={job}", "StartTime=now"], check=True)
        time.sleep(1)
    finish(process)
    assert rows(made) == rows(tmp_path / "whole")
    left, right = load_file(str(made / LAST)), load_file(str(tmp_path / "whole" / LAST))
    assert all((left[name] == right[name]).all() for name in right)
    assert re.search(r"going on with the unfinished run", (made / "run.log").read_text())
