"""Frozen layers shared out over processes: the same updates, smaller parts, checkpoints that go on with any number of processes."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.training.test_processes import LAST, SURROGATE, VARIANTS, cache, command, finish, rows, start

assert cache  # the fixture

METHODS = ["grade", "grade_ste", "ppo", "reinforce", "rloo", "grpo", "hybrid", "calibrated", "calibrated_apart", "residual"]
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
            assert float(a[key]) == pytest.approx(float(b[key]), abs=2e-5, rel=1e-4), key


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
