"""Flags of Lightning's trainer and callbacks: what is passed on, what is refused, how a run that they end is recorded."""

from __future__ import annotations

import csv
import inspect
import json
from pathlib import Path

import lightning as L
import pytest
from lightning.pytorch.callbacks import Callback

from grade_lightning.compose import config_hash, resolved, settings_of
from grade_lightning.overrides import check_arguments
from grade_lightning.run import run
from grade_lightning.settings.fields import fields_of
from grade_lightning.settings.tracking import TrainerSettings
from tests.entry import SMALL, SMALL_LM, compose_run, run_small


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)


def test_every_flag_of_lightning_is_passed_on_or_refused_with_a_reason():
    flags = set(inspect.signature(L.Trainer).parameters)
    passed, refused = set(fields_of(TrainerSettings)), set(TrainerSettings.REFUSED)
    assert passed | refused == flags
    assert not passed & refused


@pytest.mark.parametrize(
    ("flag", "key"),
    [
        ("accumulate_grad_batches=4", "hardware.grad_accumulation"), ("gradient_clip_val=1.0", "optimizer.max_grad_norm"),
        ("precision=16", "hardware.precision"), ("max_epochs=3", "max_steps"), ("devices=2", "hardware=ddp"),
        ("limit_val_batches=3", "evaluation.val_prompts"),
    ],
)  # fmt: skip
def test_flags_that_are_ours_are_refused_with_our_key(flag, key):
    with pytest.raises(ValueError, match=key):
        check_arguments([f"trainer.{flag}"])
    for prefix in ([], ["trainer._target_=tests.training.test_trainer.Watched"]):
        with pytest.raises(ValueError, match=key):
            run_small(Path("nowhere"), f"+trainer.{flag}", *prefix)


@pytest.mark.parametrize("value", ["12", "1:30", "00:00:00:1", "soon"])
def test_a_time_that_is_none_is_refused(value):
    with pytest.raises(ValueError, match="DD:HH:MM:SS"):
        settings_of(compose_run([f"trainer.max_time='{value}'"], Path("x")))


def test_flags_that_may_change_results_are_part_of_what_a_run_is():
    plain = config_hash(compose_run([]))
    for harmless in ("profiler=simple", "log_every_n_steps=5", "detect_anomaly=true", "enable_progress_bar=false"):
        assert config_hash(compose_run([f"trainer.{harmless}"])) == plain
    for other in ("deterministic=true", "benchmark=true", "max_time='00:01:00:00'", "_target_=a.Trainer"):
        assert config_hash(compose_run([f"trainer.{other}"])) != plain
    assert config_hash(compose_run(["callbacks=early_stopping", "quiet=true"])) == plain


class Watched(L.Trainer):
    """A trainer of a user's own."""

    made = 0

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        type(self).made += 1


def test_a_trainer_of_ones_own_and_a_profile(tmp_path):
    before = Watched.made
    options = ["trainer=debug", "trainer._target_=tests.training.test_trainer.Watched", "evaluation.test=false"]
    assert run_small(tmp_path / "run", *options)["steps"] == 2
    assert Watched.made == before + 1
    assert "run_training_epoch" in (tmp_path / "run" / "fit-profile.txt").read_text()
    with pytest.raises(ValueError, match=r"no subclass of lightning\.Trainer"):
        run_small(tmp_path / "other", "trainer._target_=grade_lightning.progress.bar")


class Stop(Callback):
    """Ends a run after a step."""

    def __init__(self, step: int):
        self.step = step

    def on_train_batch_end(self, trainer, *_):
        trainer.should_stop = trainer.current_epoch + 1 >= self.step


STOP = ["+callbacks.stop._target_=tests.training.test_trainer.Stop", "+callbacks.stop.step=3"]


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [{key: value for key, value in row.items() if key != "train/seconds"} for row in csv.DictReader(stream)]


def test_a_run_that_a_callback_ends_is_validated_tested_and_known_as_such(tmp_path, monkeypatch):
    """It is what a run of that many steps is, and it goes on as ended where the test was interrupted."""
    from grade_lightning.training.course import Course

    schedules = ["protocol.anneal_steps=6", "optimizer.lr_decay_steps=6"]  # the same for both
    steps = ["evaluation.validate_every=2", "run.checkpoint_every=2", *schedules]
    ended = compose_run([*SMALL, *SMALL_LM, *steps, "max_steps=6", *STOP], tmp_path / "ended")
    test = Course._test
    monkeypatch.setattr(Course, "_test", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        run(settings_of(ended), resolved(ended))
    monkeypatch.setattr(Course, "_test", test)
    results = run(settings_of(ended), resolved(ended))
    short = run_small(tmp_path / "short", *steps, "max_steps=3")
    assert (results["steps"], results["planned_steps"]) == (3, 6)
    assert "planned_steps" not in short
    assert results["validation"] == short["validation"]
    assert results["test"] == short["test"]
    assert table(tmp_path / "ended") == table(tmp_path / "short")
    samples = [json.loads(line) for line in (tmp_path / "ended" / "samples.jsonl").read_text().splitlines()]
    assert {sample["step"] for sample in samples if sample["split"] == "test"} == {3}
    assert run(settings_of(ended), resolved(ended))["steps"] == 3  # finished
    whole = compose_run([*SMALL, *SMALL_LM, *steps, "max_steps=6"], tmp_path / "ended")
    with pytest.raises(ValueError, match="ended by other callbacks after 3 steps"):
        run(settings_of(whole), resolved(whole))


def test_early_stopping_counts_validations(tmp_path):
    """A reward cannot improve by a million: the first validation is the best, and patience 2 ends the run at the third of training."""
    options = ["callbacks=early_stopping", "callbacks.early_stopping.patience=2", "callbacks.early_stopping.min_delta=1e6", "max_steps=9"]
    results = run_small(tmp_path / "run", *options, "evaluation.validate_every=2", "evaluation.test=false")
    assert [validation["step"] for validation in results["validation"]] == [0, 2, 4, 6]
    assert results["steps"] == 6


def test_max_time_ends_a_run(tmp_path):
    results = run_small(tmp_path / "run", "trainer.max_time='00:00:00:00'", "max_steps=50")
    assert results["steps"] < 50
    assert results["planned_steps"] == 50
    assert results["test"]["n"] == 24
    assert results["validation"][-1]["step"] == results["steps"]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("lightning.pytorch.callbacks.BatchSizeFinder", "hardware.grad_accumulation"),
        ("lightning.pytorch.loggers.CSVLogger", "it cannot be made"),
        ("grade_lightning.estimators.kl.exact_kl", "it cannot be made"),
        ("grade_lightning.threads.wait_briefly", "no Lightning callback"),
    ],
)
def test_callbacks_that_cannot_work_are_refused_before_any_work(tmp_path, target, message):
    with pytest.raises(ValueError, match=message):
        run_small(tmp_path / "run", f"+callbacks.mine._target_={target}")
    assert not (tmp_path / "run" / "metrics.csv").exists()
