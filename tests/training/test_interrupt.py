"""Ctrl-C and SIGTERM: what is kept, what is said, how it goes on."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest
from safetensors.torch import load_file

from grade_lightning.training.interrupt import Interrupt, Interrupted
from tests.training.test_processes import LAST, command, finish, rows, start


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)


def interrupt_now(number: int = signal.SIGINT) -> None:
    os.kill(os.getpid(), number)
    time.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_outside_a_step_it_stops_at_once_and_says_how_to_go_on(number):
    before = signal.getsignal(number)
    with pytest.raises(Interrupted, match="the command that goes on") as stopped, Interrupt(lambda: "the command that goes on"):
        interrupt_now(number)
    assert stopped.value.status == 128 + number
    assert signal.getsignal(number) is before


def test_who_handles_sigterm_already_goes_on_to():
    seen = []
    before = signal.signal(signal.SIGTERM, lambda *_: seen.append("theirs"))
    try:
        with Interrupt() as interrupt:
            interrupt.listen()
            interrupt_now(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert seen == ["theirs"]


def test_within_a_step_it_waits_for_the_end_and_a_second_one_does_not(capsys):
    with Interrupt() as interrupt:
        interrupt.begin_steps()
        interrupt_now()
        assert interrupt.wanted
        assert "after this policy step" in capsys.readouterr().err
        with pytest.raises(Interrupted):
            interrupt_now()
    with Interrupt() as interrupt:
        interrupt.begin_steps()
        interrupt.end_steps()
        with pytest.raises(Interrupted):
            interrupt_now()


def test_in_another_thread_nothing_changes():
    before, seen = signal.getsignal(signal.SIGINT), []

    def enter() -> None:
        with Interrupt():
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [before]


def interrupt_in_training(process, folder, number: int) -> str:
    while process.poll() is None and not (folder / "metrics.csv").exists():
        time.sleep(0.02)
    process.send_signal(number)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    return output


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_loses_no_step_and_names_the_command_that_goes_on(number, tmp_path):
    options = ["method=rloo", "max_steps=12", "run.checkpoint_every=100", "evaluation.validate_every=4"]
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(start(tmp_path, *command(whole, *options)))
    output = interrupt_in_training(start(tmp_path, *command(stopped, *options)), stopped, number)
    said = next(line for line in output.splitlines() if line.strip().startswith("python -m grade_lightning.run"))
    done = rows(stopped)
    assert 0 < len(done) < 12
    assert done == rows(whole)[: len(done)]
    again = finish(start(tmp_path, *said.split()[1:]))
    assert "going on with the unfinished run" in again
    assert rows(stopped) == rows(whole)
    left, right = load_file(str(stopped / LAST)), load_file(str(whole / LAST))
    assert all((left[name] == right[name]).all() for name in right)


@pytest.mark.slow
def test_an_interrupted_sweep_says_which_runs_are_left(tmp_path):
    sweep = tmp_path / "sweep"
    arguments = ["-m", "grade_lightning.run", "-m", *command(tmp_path / "x")[2:-1], f"hydra.sweep.dir={sweep}", "method=rloo,grpo",
                 "max_steps=200", "seed=1,2"]  # fmt: skip
    process = start(tmp_path, *arguments)
    while process.poll() is None and not list(sweep.glob("*/metrics.csv")):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 130, output
    listed = output.split("4 run(s) of this sweep are left")[1]
    assert listed.count("method=rloo") == listed.count("method=grpo") == 2
