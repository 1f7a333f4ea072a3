"""Frozen layers shared out over processes: the same updates, smaller parts, checkpoints that go on with any number of processes."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

from grade_lightning.compose import composed, settings_of
from grade_lightning.models.pretraining import build_model
from grade_lightning.training.machine import check_machine
from tests.conftest import SHAPE, make_noisy
from tests.entry import SMALL, SMALL_LM
from tests.training import shards
from tests.training.test_processes import LAST, SURROGATE, VARIANTS, cache, command, finish, rows, start

assert cache  # the fixture

ROOT = Path(__file__).resolve().parents[2]

METHODS = ["grade_ste", "ppo", "residual"]
SMALL_STEPS = ["max_steps=3", "evaluation.validate_every=1", "effective_batch_size=8", "max_new_tokens=12", "evaluation.batch_size=5"]
HELD = re.compile(r"this process holds ([\d.]+) MB of ([\d.]+) MB")


def torchrun(processes: int) -> tuple[str, ...]:
    return (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes))


def options_of(method: str) -> list[str]:
    return [*SMALL_STEPS, *VARIANTS.get(method, [f"method={method}"]), *(SURROGATE if method == "residual" else [])]


def assert_same_update(one: Path, other: Path) -> None:
    left, right = load_file(str(one / LAST)), load_file(str(other / LAST))
    moved = [name for name in left if "lora_B" in name]  # all of which is update
    difference, size = (sum(float(part.square().sum()) for part in parts) ** 0.5 for parts in (
        [left[name] - right[name] for name in moved], [left[name] for name in moved]))  # fmt: skip
    assert difference < 1e-2 * size  # AdamW divides by a gradient's size, also where that is rounding
    for a, b in zip(rows(one), rows(other), strict=True):
        for key in ("train/reward", "train/kl", "train/grad_norm", "train/length", "val/reward_mean", "train/tokens"):
            assert bool(a[key]) == bool(b[key])
            assert float(a[key] or 0) == pytest.approx(float(b[key] or 0), abs=2e-5, rel=1e-4), key


@pytest.fixture(scope="module")
def deep_folder(tmp_path_factory, tokenizer) -> Path:
    """Four layers, so that one of them is a small part."""
    folder = tmp_path_factory.mktemp("deep")
    make_noisy(build_model(dataclasses.replace(SHAPE, layers=4))).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def gradients(deep_folder, tmp_path_factory) -> dict[int, dict[str, torch.Tensor]]:
    """What 1, 2 and 4 processes make of the same batch in double precision."""
    found = {}
    for processes in (1, 2, 4):
        out = tmp_path_factory.mktemp("gradients") / "found.safetensors"
        finish(start(ROOT, "-m", "tests.training.shards", str(deep_folder), str(out), executable=torchrun(processes)))
        found[processes] = load_file(str(out))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("method", shards.METHODS)
@pytest.mark.parametrize("processes", [2, 4])
def test_the_gradient_is_that_of_one_process_to_rounding(method, processes, gradients):
    one, other = gradients[1][method], gradients[processes][method]
    bound = 1e-6 if method == "ppo" else 1e-12  # PPO's value head is in single precision
    assert float((one - other).norm()) < bound * float(one.norm())


@pytest.mark.slow
def test_a_process_holds_its_part_and_one_whole_layer_at_a_time(gradients):
    whole, layer = int(gradients[1]["held"]), int(gradients[1]["layer"])
    for processes in (2, 4):
        found = gradients[processes]
        assert found["held"].tolist() == [found["held"][0]] * processes
        frozen = (whole - int(found["held"][0])) / (1 - 1 / processes)  # what was shared out
        assert 0.9 * 4 * layer < frozen < 4 * layer  # the rest of a layer are adapters
        assert 0 < int(found["whole"]) < 1.5 * layer


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_two_processes_that_share_the_layers_are_one(method, tmp_path):
    """Batches of 5 leave one process without a last batch to evaluate; it must go along."""
    options = options_of(method)
    finish(start(tmp_path, *command(tmp_path / "one", *options)))
    said = finish(start(tmp_path, *command(tmp_path / "two", "hardware=fsdp", *options), executable=torchrun(2)))
    assert_same_update(tmp_path / "one", tmp_path / "two")
    held = [tuple(map(float, found)) for found in HELD.findall(said)]
    assert held
    assert all(part < whole for part, whole in held)


@pytest.mark.slow
def test_a_run_goes_on_with_another_number_of_processes(tmp_path):
    """Four processes, killed; two, killed; one, to the end: as one process from the beginning."""
    options = [
        "hardware=fsdp",
        "method=ppo",
        "max_steps=9",
        "run.checkpoint_every=1",
        "evaluation.validate_every=3",
        "effective_batch_size=8",
    ]
    finish(start(tmp_path, *command(tmp_path / "whole", *options)))
    moved = tmp_path / "moved"
    for processes, steps in ((4, 2), (2, 5)):
        run = start(tmp_path, *command(moved, *options), executable=torchrun(processes))
        while run.poll() is None and not ((moved / "metrics.csv").exists() and len(rows(moved)) >= steps):
            time.sleep(0.02)
        kill_all(run)
        assert len(rows(moved)) < 9
    assert "going on with the unfinished run" in finish(start(tmp_path, *command(moved, *options)))
    assert_same_update(tmp_path / "whole", moved)


def kill_all(run: subprocess.Popen[str]) -> None:
    for process in [*psutil.Process(run.pid).children(recursive=True), psutil.Process(run.pid)]:
        process.kill()
    run.communicate(timeout=60)


@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["method=grade_ste", "method.backprop=sequential"], "leave it at adjoint"),
        (["method=rloo", "effective_batch_size=12", "method.completions_per_prompt=4"], "make it a multiple of 8"),
        (["hardware.distributed=false"], "use hardware=fsdp"),
    ],
)
def test_what_processes_cannot_do_together_is_refused(overrides, reason, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=reason):
        check_machine(settings_of(composed([*SMALL, *SMALL_LM, "hardware=fsdp", "run.dir=unused", *overrides])), "cpu")
