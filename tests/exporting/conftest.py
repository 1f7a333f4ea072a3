"""Two finished runs, in fp32 and bf16, whose adapters are strong enough that every comparison of logits could fail."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conftest import caching_in
from tests.entry import run_small

QUICK = ["data.policy_rows=64", "evaluation.samples=6"]


def strengthen(folder: Path, seed: int) -> None:
    """Replace the adapters by ones that change every logit."""
    file, generator = folder / "adapter_model.safetensors", torch.Generator().manual_seed(seed)
    state = {
        name: torch.randn(weight.shape, generator=generator) * 0.2 if "lora_B" in name else weight
        for name, weight in load_file(file).items()
    }
    save_file(state, file)


@pytest.fixture(scope="session", autouse=True)
def cache(shared_cache):
    with caching_in(shared_cache):
        yield


@pytest.fixture(scope="session")
def trained(tmp_path_factory) -> Path:
    """A run as it ended."""
    folder = tmp_path_factory.mktemp("runs") / "trained"
    run_small(folder, *QUICK, "optimizer.lr=1e-2")
    return folder


@pytest.fixture(scope="session")
def strong(trained, tmp_path_factory) -> Path:
    """The same with strong adapters, others as the best than as the last."""
    folder = tmp_path_factory.mktemp("strong") / "run"
    shutil.copytree(trained, folder)
    strengthen(folder / "checkpoints" / "last", 1)
    strengthen(folder / "checkpoints" / "best", 2)
    return folder


@pytest.fixture(scope="session")
def strong16(tmp_path_factory) -> Path:
    """A run in bf16."""
    folder = tmp_path_factory.mktemp("strong16") / "run"
    run_small(folder, *QUICK, "hardware.precision=bf16", "max_steps=1")
    strengthen(folder / "checkpoints" / "last", 1)
    return folder
