"""Composing and executing configurations inside the test process."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from grade_lightning.compose import composed
from grade_lightning.run import execute

# The embedded default, made so small that everything from pretraining to the final test takes seconds.
SMALL = [
    "data.source.train_rows=1300", "data.source.test_rows=24", "data.source.unsupervised_rows=800", "data.reward_rows=1000",
    "data.policy_rows=80", "data.validation_rows=16", "reward.head.heldout_rows=200",
    "reward.head.epochs=40", "max_steps=2", "max_new_tokens=8",
    "effective_batch_size=4", "rollout.top_k=64", "rollout.min_new_tokens=2",
]  # fmt: skip
SMALL_LM = [
    "model.pretrain.vocab_size=900", "model.pretrain.hidden_size=64", "model.pretrain.layers=2", "model.pretrain.heads=2",
    "model.pretrain.kv_heads=1", "model.pretrain.mlp_size=128", "model.pretrain.batch_tokens=1024", "model.pretrain.lr=5e-3",
    "model.pretrain.validation_rows=20",
]  # fmt: skip


def compose_run(overrides: list[str], folder: Path | None = None) -> DictConfig:
    """What ``python -m grade_lightning.run OVERRIDES`` would see."""
    return composed([*overrides, *([] if folder is None else [f"run.dir={folder}"])])


def run_small(folder: Path, *overrides: str) -> dict[str, Any]:
    """A whole run on the small embedded default."""
    own = any(override.startswith("reward=") for override in overrides)  # another reward has no head
    small = [override for override in SMALL if not (own and override.startswith("reward.head"))]
    return execute(compose_run([*small, *SMALL_LM, *overrides], folder))
