"""The lines of a run: what they say, what is estimated, what is kept from the console and not from run.log."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

from grade_lightning.console import ConsoleHandler, run_log
from grade_lightning.durations import duration
from grade_lightning.training.lines import Remaining, line
from tests.entry import SMALL, SMALL_LM


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 00 s"), (185, "3 min 05 s"), (7625, "2 h 07 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize("step", range(1, 25))
def test_what_is_left_of_a_steady_run_is_what_it_takes(step):
    """Against a clock that runs through a whole command: steps of 2 s, validations of 32 prompts in 8 s, a test of 100 prompts twice."""
    remaining, clock, at = Remaining(24, 5, 100), 0.0, {}
    remaining.validation_took(8, 32)
    for now in range(1, 25):
        remaining.step_took(2)
        clock += 2
        if now % 5 == 0 or now == 24:
            clock += 8
            remaining.validation_took(8, 32)
        at[now] = clock, remaining.seconds(now)
    whole = clock + 2 * 100 * 8 / 32
    passed, left = at[step]
    assert passed + left == pytest.approx(whole)


def test_nothing_is_promised_before_a_step_was_measured():
    remaining = Remaining(10, 5, 100)
    assert remaining.seconds(0) is None
    remaining.validation_took(3, 30)
    assert remaining.seconds(0) is None
    assert remaining.seconds(10) == pytest.approx(20)  # nothing but the test


def test_the_line_names_step_reward_kl_judges_and_times():
    measured = {"reward_mean": 0.5, "kl_mean": 0.25, "judge_mean": 0.75, "judge_kind_mean": 0.125, "reward_part_mean": 0.1}
    said = line(3, 9, measured, 61, 5)
    assert (
        said == "step 3/9: validation reward 0.500, KL 0.250 nats/token, judge 0.750, judge kind 0.125; 1 min 01 s so far, about 5 s left"
    )


def test_chatter_is_kept_from_the_console_alone(tmp_path, capsys):
    handler = ConsoleHandler(sys.stdout)
    foreign, root = logging.getLogger("lightning_utilities.made_up"), logging.getLogger()
    root.addHandler(handler)
    level = root.level
    root.setLevel(logging.INFO)
    try:
        with run_log() as kept:
            foreign.info("GPU available: False, used: False")
            foreign.info("Metric val/reward_mean improved.")
            kept.open(tmp_path)
            logging.getLogger("other").info("GPU available: said by another")
            with warnings.catch_warnings():
                warnings.simplefilter("always")
                warnings.warn("mind the gap", stacklevel=1)
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
    shown, log = "".join(capsys.readouterr()), (tmp_path / "run.log").read_text()
    assert "used: False" not in shown
    for said in ("Metric val/reward_mean improved.", "said by another"):
        assert said in shown
        assert said in log
    assert "used: False" in log
    assert "mind the gap" in log


def test_an_error_stands_in_the_log_of_its_run(tmp_path):
    def fails() -> None:
        with run_log() as kept:
            kept.open(tmp_path)
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fails()
    assert "ZeroDivisionError: division by zero" in (tmp_path / "run.log").read_text()


NOISE = re.compile(
    r"GPU available|litlogger|eval mode|deprecat|srun|limit_val_batches|Warning|does not have many workers|Trainer\.fit", re.I
)


def command(folder: Path, *overrides: str) -> str:
    arguments = [sys.executable, "-m", "grade_lightning.run", *SMALL, *SMALL_LM, f"run.dir={folder}", *overrides]
    done = subprocess.run(arguments, cwd=folder.parent, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


@pytest.mark.slow
def test_a_command_says_its_own_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    said = command(tmp_path / "run", "evaluation.validate_every=1", "logger=wandb")
    assert [found for found in said.splitlines() if NOISE.search(found)] == []
    lines = [found for found in said.splitlines() if re.match(r"step \d/2: validation reward", found)]
    assert [found.split(":")[0] for found in lines] == ["step 0/2", "step 1/2", "step 2/2"]
    log = (tmp_path / "run" / "run.log").read_text()
    assert all(found in log for found in lines)
    assert "GPU available" in log
    quiet = command(tmp_path / "quiet", "evaluation.validate_every=1", "quiet=true")
    assert not re.search(r"step \d/2|policy steps:|\d+%\|", quiet)
    assert "wall time" in quiet


@pytest.mark.slow
def test_plain_python_shows_the_same_lines(tmp_path):
    code = f"""
from grade_lightning.compose import composed, resolved, settings_of
from grade_lightning.run import run
cfg = composed({[*SMALL, *SMALL_LM, f"run.dir={tmp_path / 'run'}"]!r})
run(settings_of(cfg), resolved(cfg))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    said = done.stdout + done.stderr
    assert len(re.findall(r"^step \d/2: validation reward", said, flags=re.MULTILINE)) == 2
    assert [found for found in said.splitlines() if NOISE.search(found)] == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_log_on_a_full_disk_says_so_once_and_stops_nothing(tmp_path, capsys):
    (tmp_path / "run.log").symlink_to("/dev/full")
    with run_log() as kept:
        kept.open(tmp_path)
        for number in range(3):
            logging.getLogger("grade_lightning.test").info("message %s", number)
    said = capsys.readouterr().err
    assert said.count("run.log lacks messages from here on (No space left on device)") == 1
    assert "Traceback" not in said
