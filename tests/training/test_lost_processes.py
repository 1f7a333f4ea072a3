"""A process is killed, or all are interrupted: what the others say, with which status they end, and how the run goes on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from grade_lightning.launch import split_arguments
from grade_lightning.training.strategy import started_with
from tests.training.test_processes import cache, command, finish, results, rows, start

assert cache  # the fixture

LAUNCH = (sys.executable, "-m", "grade_lightning.launch", "--nproc-per-node", "2")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
OPTIONS = ["max_steps=24", "run.checkpoint_every=3", "evaluation.validate_every=8", "effective_batch_size=8", "method=grade_ste"]


def begun(folder: Path, executable: tuple[str, ...], hardware: str):
    """A run of two processes in the middle of training."""
    words = command(folder, f"hardware={hardware}", *OPTIONS)
    run = start(folder.parent, *(words[2:] if "grade_lightning.launch" in executable else words), executable=executable)
    while run.poll() is None and not ((folder / "metrics.csv").exists() and len(rows(folder)) > 4):
        time.sleep(0.01)
    return run


def of_rank(run, rank: int) -> psutil.Process:
    return next(child for child in psutil.Process(run.pid).children(recursive=True) if child.environ().get("RANK") == str(rank))


def named(output: str, beginning: str) -> list[str]:
    return shlex.split(next(line for line in output.splitlines() if line.strip().startswith(beginning)))


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "hardware"), [(1, "ddp"), (0, "fsdp")])
def test_a_killed_process_ends_the_others_and_the_named_command_goes_on(rank, hardware, tmp_path):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(tmp_path, *command(whole, f"hardware={hardware}", *OPTIONS)[2:], executable=LAUNCH))
    run = begun(killed, LAUNCH, hardware)
    of_rank(run, rank).kill()
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 128 + signal.SIGKILL, output
    assert f"process {rank} was killed (SIGKILL)" in output
    assert len(rows(killed)) < 24
    again = named(output.split("was killed")[1], "python -m grade_lightning.launch")
    assert "going on with the unfinished run" in finish(start(tmp_path, *again[1:]))
    assert rows(killed) == rows(whole)
    assert results(killed) == results(whole)


@pytest.mark.slow
def test_under_torchrun_the_others_say_it_and_the_same_command_goes_on(tmp_path):
    whole = tmp_path / "whole"
    finish(start(tmp_path, *command(whole, "hardware=ddp", *OPTIONS), executable=TORCHRUN))
    for rank in (0, 1):
        killed = tmp_path / f"killed-{rank}"
        run = begun(killed, TORCHRUN, "ddp")
        of_rank(run, rank).kill()
        output = run.communicate(timeout=60)[0]
        assert run.returncode != 0
        assert output.count("another process of this run has ended") == 1, output
        assert named(output, "torchrun ")[:6] == ["torchrun", "--standalone", "--nproc-per-node", "2", "-m", "grade_lightning.run"]
        again = finish(start(tmp_path, *command(killed, "hardware=ddp", *OPTIONS), executable=TORCHRUN))
        assert "going on with the unfinished run" in again
        assert rows(killed) == rows(whole)
        assert results(killed) == results(whole)


@pytest.mark.slow
def test_an_interrupt_of_all_processes_has_its_status_and_keeps_the_step(tmp_path):
    run = begun(tmp_path / "run", LAUNCH, "ddp")
    run.send_signal(signal.SIGINT)
    output = run.communicate(timeout=60)[0]
    assert run.returncode == 130, output
    assert "Traceback" not in output
    said = named(output, "python -m grade_lightning.launch")
    kept = len(rows(tmp_path / "run"))
    assert 4 < kept < 24
    finish(start(tmp_path, *said[1:]))
    assert len(rows(tmp_path / "run")) == 24


def test_options_of_torchrun_end_where_overrides_begin():
    conf = ["--nproc-per-node", "2", "--rdzv-conf", "timeout=600"]
    assert split_arguments([*conf, "hardware=ddp"]) == (conf, ["hardware=ddp"])
    assert split_arguments(["--role", "a=b", "--", "seed=1"]) == (["--role", "a=b"], ["seed=1"])
    assert split_arguments(["--nproc-per-node", "2", "--rdzv-endpoint=a:1", "method=rloo", "-x"]) == (
        ["--nproc-per-node", "2", "--rdzv-endpoint=a:1"], ["method=rloo", "-x"],
    )  # fmt: skip


def test_a_run_knows_what_it_was_started_with(monkeypatch):
    for name in ("TORCHELASTIC_RUN_ID", "GRADE_LAUNCHED"):
        monkeypatch.delenv(name, raising=False)
    assert started_with() == ["python", "-m", "grade_lightning.run"]
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(os.cpu_count()))
    assert started_with() == ["torchrun", "--standalone", "--nproc-per-node", str(os.cpu_count()), "-m", "grade_lightning.run"]
