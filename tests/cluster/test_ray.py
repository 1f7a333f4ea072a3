"""``launcher=ray`` on real Ray clusters of this machine (the extra `ray`)."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import psutil
import pytest
from safetensors.torch import load_file

from tests.entry import SMALL, SMALL_LM
from tests.training.test_processes import LAST, cache, finish, rows, start

assert cache  # the fixture

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra `ray`")
WITHOUT_RAY = "import sys; sys.modules['ray'] = None; from grade_lightning.run import main; main()"
RAY = ["launcher=ray", "hydra.launcher.cluster_cpus=2"]


@pytest.fixture(autouse=True)
def _token(monkeypatch):
    """Clusters that know each other's users, and write no token into the home folder."""
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(32))


def sweep(folder: Path | str, *overrides: str) -> list[str]:
    return ["-m", "grade_lightning.run", "-m", *SMALL, *SMALL_LM, "quiet=true", f"hydra.sweep.dir={folder}", *overrides]


def same_adapters(left: Path, right: Path) -> bool:
    one, two = load_file(str(left / LAST)), load_file(str(right / LAST))
    return one.keys() == two.keys() and all((one[name] == two[name]).all() for name in one)


def wait_for_rows(process: subprocess.Popen[str], folder: Path, pattern: str, least: int) -> Path:
    """The folder of a run, once it has made so many policy steps."""
    while process.poll() is None:
        for table in folder.glob(f"{pattern}/metrics.csv"):
            if len(table.read_text().splitlines()) > least:
                return table.parent
        time.sleep(0.1)
    raise AssertionError(process.communicate()[0])


def process_of(run: Path) -> int:
    """Id of the process that makes a run: Ray names it after its task, the run's folder."""
    return next(process.pid for process in psutil.process_iter(["cmdline"]) if f"ray::{run.name}" in (process.info["cmdline"] or []))


def test_without_ray_the_command_says_what_to_install(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, *sweep(tmp_path / "sweep", "launcher=ray", "seed=1,2")[2:]],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "launcher=ray needs Ray: pip install 'grade-lightning[ray]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "sweep").exists()


@needs_ray
@pytest.mark.slow
def test_a_sweep_is_the_one_of_the_default_launcher_and_is_made_once(tmp_path):
    options = ["method=grade_ste,rloo", "seed=1,2"]
    finish(start(tmp_path, *sweep(tmp_path / "plain", *options)))
    output = finish(start(tmp_path, *sweep(tmp_path / "ray", *RAY, *options)))
    assert "run 4 of 4 (" in output
    made = {folder.name: folder for folder in (tmp_path / "ray").glob("*-seed*")}
    assert made.keys() == {folder.name for folder in (tmp_path / "plain").glob("*-seed*")}
    assert len(made) == 4
    for name, folder in made.items():
        assert rows(folder) == rows(tmp_path / "plain" / name)
        assert same_adapters(folder, tmp_path / "plain" / name)
    times = {folder: (folder / "results.json").stat().st_mtime_ns for folder in made.values()}
    again = finish(start(tmp_path, *sweep(tmp_path / "ray", *RAY, *options)))
    assert again.count("finished: nothing to do") == 4
    assert times == {folder: (folder / "results.json").stat().st_mtime_ns for folder in made.values()}


@needs_ray
@pytest.mark.slow
def test_failed_runs_leave_the_others_going_and_are_named(tmp_path):
    """top_k=5000 cannot work with 900 tokens: two runs refuse it, and of the other two one is killed and not taken up again."""
    options = ["method=rloo", "seed=1,2", "rollout.top_k=64,5000", "hydra.launcher.max_retries=0", "max_steps=40", "run.checkpoint_every=4"]
    process = start(tmp_path, *sweep(tmp_path / "sweep", *RAY, *options))
    os.kill(process_of(wait_for_rows(process, tmp_path / "sweep", "rloo-seed1-*", 8)), signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    report = output.split("of this sweep failed")[1]
    assert "3 run(s) of this sweep failed" in output
    assert report.count("above the vocabulary size 900") == 2
    assert re.search(r"rloo-seed1-\w+: WorkerCrashedError", report)
    assert [json.loads(file.read_text())["seed"] for file in (tmp_path / "sweep").glob("*/results.json")] == [2]


@needs_ray
@pytest.mark.slow
def test_a_killed_run_and_an_interrupted_sweep_go_on_bit_for_bit(tmp_path):
    options = ["method=rloo", "seed=1,2", "max_steps=60", "run.checkpoint_every=4", "evaluation.validate_every=20"]
    finish(start(tmp_path, *sweep(tmp_path / "plain", *options)))
    process = start(tmp_path, *sweep(tmp_path / "ray", *RAY, *options))
    os.kill(process_of(wait_for_rows(process, tmp_path / "ray", "rloo-seed1-*", 8)), signal.SIGKILL)  # Ray makes it another process
    wait_for_rows(process, tmp_path / "ray", "rloo-seed2-*", 8)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 130, output
    assert "of this sweep are not finished; running the sweep again goes on with them" in output
    assert "--raylet-name" not in output  # of the process' own command, where a run names the one that goes on with it
    finish(start(tmp_path, *sweep(tmp_path / "ray", *RAY, *options)))
    made = list((tmp_path / "ray").glob("*-seed*"))
    assert len(made) == 2
    for folder in made:
        assert rows(folder) == rows(tmp_path / "plain" / folder.name)
        assert same_adapters(folder, tmp_path / "plain" / folder.name)
        assert "going on with the unfinished run" in (folder / "run.log").read_text()


@pytest.fixture
def cluster(_token, tmp_path_factory):
    """Address of a cluster that runs already, started elsewhere and without the variables of the command."""
    folder = tmp_path_factory.mktemp("elsewhere")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GRADE_")}
    arguments = ["start", "--head", "--block", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--disable-usage-stats"]
    head = subprocess.Popen([str(Path(sysconfig.get_path("scripts"), "ray")), *arguments], cwd=folder, env=environment,
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)  # fmt: skip
    for line in head.stdout:
        if "Ray runtime started" in line:
            break
    yield f"127.0.0.1:{port}", folder
    head.send_signal(signal.SIGTERM)
    head.communicate(timeout=60)


@needs_ray
@pytest.mark.slow
def test_a_cluster_that_runs_already_makes_the_runs_where_the_command_is(tmp_path, cluster):
    address, elsewhere = cluster
    output = finish(start(tmp_path, *sweep("sweep", "launcher=ray", f"hydra.launcher.address={address}", "method=rloo", "seed=1,2")))
    assert "run 2 of 2 (" in output  # the plan came along with the other variables
    assert len(list((tmp_path / "sweep").glob("*/results.json"))) == 2
    assert list(elsewhere.iterdir()) == []
