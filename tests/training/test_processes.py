"""Several processes, killed processes: the whole command, as a user runs it."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.entry import SMALL, SMALL_LM

METHODS = ["grade", "grade_ste", "ppo", "reinforce", "rloo", "grpo"]
LAST = "checkpoints/last/adapter_model.safetensors"


@pytest.fixture(autouse=True)
def cache(shared_cache, monkeypatch, tmp_path):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    (tmp_path / "vowels_of_test.py").write_text(
        "def score(completions, **_): return [sum(c in 'aeiou' for c in t) / 9 for t in completions]\n"
    )


def command(folder: Path, *overrides: str) -> list[str]:
    small = [o for o in SMALL if not ("reward=surrogate" in overrides and o.startswith("reward.head"))]
    return ["-m", "grade_lightning.run", *small, *SMALL_LM, f"run.dir={folder}", *overrides]


VARIANTS = {
    "calibrated": ["method=grade_ste", "method.reward_gain=calibrated", "method.completions_per_prompt=2"],
    "calibrated_apart": ["method=grade_ste", "method.reward_gain=calibrated"],
    "calibrated_layer": ["method=grade_ste", "method.reward_gain=calibrated", "method.gain_scope=layer", "method.completions_per_prompt=2"],
    "calibrated_soft": ["method=grade", "method.reward_gain=calibrated"],
    "residual_calibrated": ["method=residual", "method.reward_gain=calibrated", "method.completions_per_prompt=2"],
    "hybrid": ["method=hybrid", "method.completions_per_prompt=2"],
    "annealed_grpo": [
        "method=annealed", "method.policy_gradient=grpo", "method.half=2", "method.completions_per_prompt=2", "method.prompt_weights=spread"
    ],
}  # fmt: skip
SURROGATE = ["reward=surrogate", "reward.of.function=vowels_of_test:score", "reward.least=4"]


def start(cwd: Path, *arguments: str, executable: tuple[str, ...] = (sys.executable,)) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    environment.pop("WANDB_SERVICE", None)  # of this test process, where a killed run would stay in use
    return subprocess.Popen(
        [*executable, *arguments], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    )


def finish(process: subprocess.Popen[str]) -> str:
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def results(folder: Path) -> dict[str, Any]:
    """Of a finished run, without times."""
    found = json.loads((folder / "results.json").read_text())
    return {name: value for name, value in found.items() if name not in ("seconds", "peak_memory_bytes")}


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open() as stream:
        return [
            {key: value for key, value in row.items() if key not in ("train/seconds", "train/reward_seconds")}
            for row in csv.DictReader(stream)
        ]


@pytest.mark.slow
@pytest.mark.parametrize("method", [*METHODS, "residual", *VARIANTS])
def test_killed_and_run_again_equals_uninterrupted(method, tmp_path, monkeypatch):
    """SIGKILL in the middle of training; the same command again goes on from the last checkpoint, in Weights & Biases' eyes too."""
    monkeypatch.setenv("WANDB_MODE", "offline")
    options = ["max_steps=12", "run.checkpoint_every=3", "evaluation.validate_every=4", "model.lora.dropout=0.05"]
    options += [*VARIANTS[method], "effective_batch_size=8"] if method in VARIANTS else [f"method={method}"]
    options += ["logger=wandb"] if method == "grade_ste" else []
    options += SURROGATE if "residual" in method else []
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    finish(start(tmp_path, *command(whole, *options)))
    process = start(tmp_path, *command(killed, *options))
    checkpoint, table = killed / "checkpoints" / "resume.ckpt", killed / "metrics.csv"
    # A step beyond a checkpoint: its row must be taken back.
    while process.poll() is None and not (checkpoint.exists() and len(table.read_text().splitlines()) > 4):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "results.json").exists()
    assert "going on with the unfinished run" in finish(start(tmp_path, *command(killed, *options)))
    assert rows(killed) == rows(whole)
    left, right = load_file(str(killed / LAST)), load_file(str(whole / LAST))
    assert all((left[name] == right[name]).all() for name in right)
    results = [json.loads((folder / "results.json").read_text()) for folder in (killed, whole)]
    for key in ("test", "initial", "validation", "best_validation"):
        assert results[0][key] == results[1][key]
    if method == "grade_ste":
        attempts = sorted(folder.name.rsplit("-", 2)[1:] for folder in (killed / "wandb").glob("offline-run-*"))
        assert len(attempts) == 2, attempts
        assert attempts[0] == attempts[1]
    assert "finished: nothing to do" in finish(start(tmp_path, *command(killed, *options)))


def learned_along(folder: Path) -> torch.Tensor:
    """Mean gradients of the two estimators that a calibrated gain compares."""
    kept = torch.load(folder / "checkpoints" / "resume.ckpt", weights_only=True)["state_dict"]
    (found,) = (value for name, value in kept.items() if name.endswith("calibration.average.means"))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", ["grade_ste", "ppo", "residual", "rloo", "annealed", *VARIANTS])
def test_two_processes_are_one(method, tmp_path):
    """torchrun with two gloo processes against one process: the same updates up to the order of summation."""
    steps = 7 if "calibrated" in method and "soft" not in method else 3  # a gain is trusted after five; mixtures drift apart sooner
    options = [f"max_steps={steps}", "evaluation.validate_every=1", "effective_batch_size=8", "max_new_tokens=12"]
    options += VARIANTS.get(method, [f"method={method}"])
    options += SURROGATE if "residual" in method else []
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    finish(start(tmp_path, *command(tmp_path / "one", *options)))
    finish(start(tmp_path, *command(tmp_path / "two", "hardware=ddp", *options), executable=torchrun))
    one, two = load_file(str(tmp_path / "one" / LAST)), load_file(str(tmp_path / "two" / LAST))
    # All of an adapter's B is update.  AdamW divides by a gradient's size: single weights whose gradient is rounding may differ by a step.
    moved = [name for name in one if "lora_B" in name]
    difference, size = (sum(float(part.square().sum()) for part in parts) ** 0.5 for parts in (
        [one[name] - two[name] for name in moved], [one[name] for name in moved]))  # fmt: skip
    assert difference < 1e-2 * size
    for a, b in zip(rows(tmp_path / "one"), rows(tmp_path / "two"), strict=True):
        gain = ("train/reward_gain",) if "train/reward_gain" in a else ()
        for key in ("train/reward", "train/kl", "train/grad_norm", "train/length", "val/reward_mean", "train/tokens", *gain):
            assert float(a[key]) == pytest.approx(float(b[key]), abs=2e-5, rel=1e-4), key
    if "calibrated" in method:  # what the gain is learned from
        a, b = (learned_along(tmp_path / name) for name in ("one", "two"))
        assert (a - b).norm() < 1e-2 * a.norm()
    results = [json.loads((tmp_path / name / "results.json").read_text()) for name in ("one", "two")]
    assert results[0]["test"]["n"] == results[1]["test"]["n"] == 24
    assert results[0]["test"]["reward_mean"] == pytest.approx(results[1]["test"]["reward_mean"], abs=1e-4)


@pytest.mark.slow
def test_processes_without_the_group_are_refused(tmp_path):
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    process = start(tmp_path, *command(tmp_path / "run"), executable=torchrun)
    output = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert "add hardware=ddp" in output


@pytest.mark.slow
def test_sweep_goes_on_after_a_failure_names_it_and_skips_what_is_done(tmp_path):
    """top_k=5000 cannot work with 900 tokens; the others run, and run once only."""
    arguments = ["-m", "grade_lightning.run", "-m", *SMALL, *SMALL_LM, f"hydra.sweep.dir={tmp_path / 'sweep'}", "method=grade_ste,rloo"]
    process = start(tmp_path, *arguments, "rollout.top_k=64,5000")
    output = process.communicate(timeout=300)[0]
    assert process.returncode != 0
    assert "2 run(s) of this sweep failed" in output
    assert "above the vocabulary size 900" in output.split("of this sweep failed")[1]
    done = sorted((tmp_path / "sweep").glob("*/results.json"))
    assert [json.loads(file.read_text())["method"] for file in done] == ["grade_ste", "rloo"]
    times = [file.stat().st_mtime_ns for file in done]
    again = finish(start(tmp_path, *arguments, "rollout.top_k=64"))
    assert again.count("finished: nothing to do") == 2
    assert [file.stat().st_mtime_ns for file in done] == times


@pytest.mark.slow
def test_sweep_in_parallel_processes(tmp_path):
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher", reason="needs the extra `joblib`")
    arguments = ["-m", "grade_lightning.run", "-m", "launcher=joblib", *SMALL, *SMALL_LM, f"hydra.sweep.dir={tmp_path / 'sweep'}"]
    finish(start(tmp_path, *arguments, "seed=1,2", "hydra.launcher.n_jobs=2"))
    assert len(list((tmp_path / "sweep").glob("*/results.json"))) == 2
