"""Loggers: what a run tells them, read back from their own files or server; and that none of them can stop a run."""

from __future__ import annotations

import csv
import json
import logging
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger

from grade_lightning.compose import config_hash, resolved, settings_of
from grade_lightning.records.identity import as_laid_out_now
from grade_lightning.run import execute, run
from grade_lightning.settings import parse
from tests.entry import SMALL, SMALL_LM, compose_run, run_small
from tests.tracking.wandb_files import records


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return list(csv.DictReader(stream))


# -- Weights & Biases ----------------------------------------------------------------------------------------------------


@pytest.fixture
def wandb_run(tmp_path) -> tuple[Path, dict[str, Any], list[Any], Path]:
    folder = tmp_path / "run"
    results = run_small(folder, "logger=wandb", "logger.wandb.project=mine", "evaluation.validate_every=1")
    (offline,) = (folder / "wandb").glob("offline-run-*")
    return folder, results, list(records(offline)), offline


def test_wandb_has_configuration_results_samples_figure_and_adapter(wandb_run):
    folder, results, found, offline = wandb_run
    (begun,) = [record.run for record in found if record.WhichOneof("record_type") == "run"]
    assert begun.project == "mine"
    config: dict[str, Any] = {}
    for update in [begun.config, *(record.config for record in found if record.WhichOneof("record_type") == "config")]:
        config |= {item.key or item.nested_key[0]: json.loads(item.value_json) for item in update.update}
    plain = yaml.safe_load((folder / "config.yaml").read_text())
    assert {key: config[key] for key in plain} == plain

    rows = []
    for record in found:
        if record.WhichOneof("record_type") == "history":
            rows.append({item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item})
    for number, validation in enumerate(results["validation"]):
        assert any(row.get("step") == number and row.get("val/reward_mean") == validation["reward_mean"] for row in rows)
    ended = next(row for row in rows if "test/reward_mean" in row)
    assert ended["test/reward_mean"] == results["test"]["reward_mean"]
    assert ended["initial/reward_mean"] == results["initial"]["reward_mean"]

    (table,) = (offline / "files" / "media" / "table").glob("samples*.json")
    shown = json.loads(table.read_text())
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    after = {(sample["prompt"], sample["completion"]) for sample in samples if sample["split"] == "test"}
    before = {(sample["prompt"], sample["completion"]) for sample in samples if sample["split"] == "initial"}
    assert shown["columns"] == ["prompt", "before", "after", "reward_before", "reward_after"]
    assert {(row[0], row[1]) for row in shown["data"]} == before
    assert {(row[0], row[2]) for row in shown["data"]} == after
    (image,) = (offline / "files" / "media" / "images").glob("training_curve*.png")
    assert image.read_bytes().startswith(b"\x89PNG")

    (artifact,) = [
        record.request.log_artifact.artifact if record.WhichOneof("record_type") == "request" else record.artifact
        for record in found
        if record.WhichOneof("record_type") == "artifact"
        or (record.WhichOneof("record_type") == "request" and record.request.WhichOneof("request_type") == "log_artifact")
        if "adapter" in str(record)
    ]
    assert artifact.type == "model"
    kept = {entry.path: entry.size for entry in artifact.manifest.contents}
    weights = folder / "checkpoints" / "last" / "adapter_model.safetensors"
    assert kept["adapter_model.safetensors"] == weights.stat().st_size


def test_no_adapter_where_none_is_wanted(tmp_path):
    run_small(tmp_path / "run", "logger=wandb", "logger.wandb.log_adapter=false", "max_steps=1", "evaluation.test=false")
    (offline,) = (tmp_path / "run" / "wandb").glob("offline-run-*")
    assert not any("adapter_model" in str(record) for record in records(offline))


# -- TensorBoard ---------------------------------------------------------------------------------------------------------


def test_tensorboard_files_hold_the_table_of_metrics(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs the extra `tensorboard`")
    results = run_small(tmp_path / "run", "logger=[csv,tensorboard]", "evaluation.validate_every=1")
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    table = rows_of(tmp_path / "run")
    for name in ("train/reward", "train/kl", "train/grad_norm"):
        assert [event.step for event in events.Scalars(name)] == [1, 2]
        assert [event.value for event in events.Scalars(name)] == pytest.approx([float(row[name]) for row in table], rel=1e-6)
    validation = [(v["step"], v["reward_mean"]) for v in results["validation"]]
    assert [(event.step, pytest.approx(event.value, rel=1e-6)) for event in events.Scalars("val/reward_mean")] == validation
    assert events.Scalars("test/reward_mean")[0].value == pytest.approx(results["test"]["reward_mean"], rel=1e-6)
    assert events.Tags()["images"] == ["training_curve"]
    text = events.Tensors("samples/text_summary")[0].tensor_proto.string_val[0].decode()
    assert len(text.splitlines()) == 2 + 24


def test_rows_for_loggers_are_thinned_and_the_table_is_not(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason="needs the extra `tensorboard`")
    options = ["max_steps=5", "evaluation.test=false", "evaluation.validate_every=100", "trainer.log_every_n_steps=2"]
    run_small(tmp_path / "run", "logger=tensorboard", *options)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("train/reward")] == [2, 4, 5]
    assert [row["step"] for row in rows_of(tmp_path / "run")] == list("12345")


# -- MLflow --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def mlflow_server(tmp_path) -> Iterator[str]:
    pytest.importorskip("mlflow", reason="needs the extra `mlflow`")
    for package in ("flask", "flask_cors", "graphene", "huey", "sqlalchemy", "alembic"):
        pytest.importorskip(package, reason="the server of MLflow needs it; the extra `dev` has it")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    folder = tmp_path / "server"
    folder.mkdir()
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", "--serve-artifacts",
               "--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "artifacts")]  # fmt: skip
    environment = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "log").open("w") as said:
        process = subprocess.Popen(command, cwd=folder, stdout=said, stderr=said, env=environment, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(600):
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            try:
                urllib.request.urlopen(f"{address}/health", timeout=2).close()
                break
            except (urllib.error.URLError, TimeoutError, ConnectionError):
                time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


@pytest.mark.slow
def test_mlflow_server_has_the_run_and_a_run_that_goes_on_is_the_same(tmp_path, mlflow_server, monkeypatch):
    import mlflow

    from grade_lightning.training.course import Course

    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    cfg = compose_run([*SMALL, *SMALL_LM, "logger=mlflow", f"logger.mlflow.tracking_uri={mlflow_server}", "evaluation.validate_every=1",
                       "run.checkpoint_every=1"], tmp_path / "run")  # fmt: skip
    finish = Course._finish
    monkeypatch.setattr(Course, "_finish", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        execute(cfg)
    client = mlflow.MlflowClient(mlflow_server)
    experiment = client.get_experiment_by_name("grade-lightning").experiment_id
    (stopped,) = client.search_runs([experiment])
    assert stopped.info.status == "FAILED"
    monkeypatch.setattr(Course, "_finish", finish)
    results = execute(cfg)

    (found,) = client.search_runs([experiment])
    assert found.info.run_id == stopped.info.run_id
    assert found.info.status == "FINISHED"
    assert found.data.params["optimizer/lr"] == str(cfg.optimizer.lr)
    assert found.data.metrics["test/reward_mean"] == pytest.approx(results["test"]["reward_mean"])
    history = {point.step: point.value for point in client.get_metric_history(found.info.run_id, "val/reward_mean")}
    assert history == {v["step"]: pytest.approx(v["reward_mean"]) for v in results["validation"]}
    names = {file.path for folder in (None, "adapter") for file in client.list_artifacts(found.info.run_id, folder)}
    assert {"adapter", "adapter/adapter_model.safetensors", "samples.json", "training_curve.png"} <= names
    local = client.download_artifacts(found.info.run_id, "adapter/adapter_model.safetensors", str(tmp_path))
    assert Path(local).read_bytes() == (tmp_path / "run" / "checkpoints" / "last" / "adapter_model.safetensors").read_bytes()


# -- whatever fails ------------------------------------------------------------------------------------------------------


class Fails(CSVLogger):
    """Writes until its disk is full."""

    def log_metrics(self, metrics, step=None):
        if step is not None and step >= 1:
            raise OSError("No space left on device")
        super().log_metrics(metrics, step)


def test_a_logger_that_fails_is_left_out_and_said_once(tmp_path, caplog):
    options = ["+logger.disk._target_=tests.tracking.test_loggers.Fails", f"+logger.disk.save_dir={tmp_path / 'other'}"]
    with caplog.at_level(logging.WARNING):
        results = run_small(tmp_path / "run", *options, "evaluation.validate_every=1")
    assert results["steps"] == 2
    assert len(rows_of(tmp_path / "run")) == 2
    said = [record.getMessage() for record in caplog.records if "goes on without it" in record.getMessage()]
    assert len(said) == 1
    assert "disk" in said[0]
    assert "No space left" in said[0]


def test_a_server_that_is_away_is_left_out(tmp_path, caplog, monkeypatch):
    pytest.importorskip("mlflow", reason="needs the extra `mlflow`")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with caplog.at_level(logging.WARNING):
        results = run_small(tmp_path / "run", "logger=mlflow", "logger.mlflow.tracking_uri=http://127.0.0.1:9", "max_steps=1")
    assert results["steps"] == 1
    assert sum("logger mlflow failed" in record.getMessage() for record in caplog.records) == 1


# -- choosing them -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("logger=csv", set()), ("logger=none", set()), ("logger=[]", set()), ("logger=wandb", {"wandb"}),
        ("logger=[csv,wandb,tensorboard,mlflow]", {"wandb", "tensorboard", "mlflow"}),
    ],
)  # fmt: skip
def test_several_loggers_at_once_and_none(choice, names):
    cfg = compose_run([choice], Path("x"))
    assert set(settings_of(cfg).logger) == names
    assert config_hash(cfg) == config_hash(compose_run([], Path("x")))


def test_wandb_settings_of_an_earlier_version_are_understood():
    plain = resolved(compose_run(["logger=wandb", "logger.wandb.project=mine"], Path("x")))
    del plain["logger"]["wandb"]["_target_"]
    for key in ("trainer", "callbacks", "quiet"):
        del plain[key]
    settings = parse(as_laid_out_now(plain))
    assert settings.logger["wandb"].settings.project == "mine"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["logger=mlflow", "logger.mlflow.tracking_uri=https://me:word@host"], r"logger\.mlflow\.tracking_uri.*environment variable"),
        (["+logger.comet._target_=lightning.pytorch.loggers.CometLogger", "+logger.comet.api_key=abc"], "environment variable"),
        (["+logger.mine._target_=lightning.pytorch.callbacks.Timer"], "no Lightning logger"),
        (["+logger.mine._target_=subprocess.run"], "none of Python's own"),
        (["+logger.mine._target_=lightning.pytorch.loggers.CSVLogger", "+logger.mine.foo=1"], "takes no such argument"),
    ],
)
def test_what_cannot_be_used_is_refused_before_any_work(tmp_path, overrides, message):
    with pytest.raises(ValueError, match=message):
        run_small(tmp_path / "run", *overrides)
    assert not (tmp_path / "run" / "metrics.csv").exists()


def test_loggers_and_callbacks_of_python_are_added_and_given_back(tmp_path):
    cfg = compose_run([*SMALL, *SMALL_LM, "callbacks=device_stats", "evaluation.test=false"], tmp_path / "run")
    logger = CSVLogger(tmp_path / "mine", name="", version="")
    results = run(settings_of(cfg), resolved(cfg), callbacks=[LearningRateMonitor()], loggers=[logger])
    assert results["steps"] == 2
    with (tmp_path / "mine" / "metrics.csv").open() as stream:
        told = list(csv.DictReader(stream))
    rates = {float(row["lr-AdamW"]) for row in told if row.get("lr-AdamW")}
    table = rows_of(tmp_path / "run")
    # A callback's measurement is a column of the table too.
    assert rates == {cfg.optimizer.lr} == {float(row["lr-AdamW"]) for row in table}
    assert {float(row["train/reward"]) for row in told if row.get("train/reward")} == {float(row["train/reward"]) for row in table}
    assert any("DeviceStatsMonitor" in name for name in table[0])
    assert "log_metrics" not in vars(logger)
