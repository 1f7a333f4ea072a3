"""Running a method for a few steps without a run folder."""

from __future__ import annotations

import warnings

import lightning as L
import torch

from grade_lightning.data.module import IMDBDataModule
from grade_lightning.methods import GRADE
from grade_lightning.methods.base import Method, Totals
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from tests.conftest import make_reward, make_shared


def make_grade(policy: Policy, *, tau: float = 1.0, straight_through: bool = True, backprop: str = "adjoint", tol: float = 1e-12,
               max_hops: int | None = None, scope: str = "full", **shared) -> GRADE:  # fmt: skip
    reward = make_reward(policy, scope=scope)
    return GRADE(
        make_shared(policy, reward, **shared), temperature=lambda step: tau, straight_through=straight_through, backprop=backprop,
        tol=tol, max_hops=max_hops, diagnostics_every=1,
    )  # fmt: skip


def gradient(method: Method, batch) -> torch.Tensor:
    """The gradient of one effective batch over all trainable weights, before clipping.  Leaves no gradient behind."""
    weights = method.policy.trainable()
    for weight in weights.values():
        weight.grad = None
    rollouts = method.sample_effective_batch(batch)
    totals = Totals(len(batch), sum(rollout.tokens for rollout in rollouts))
    for rollout in rollouts:
        with method.policy.dropout(method.shared.seed, batch.step, rollout.prompt.rows):
            method._accumulate(rollout, totals, Meter(), batch.step)
    flat = torch.cat([weight.grad.flatten() for weight in weights.values()])
    for weight in weights.values():
        weight.grad = None
    return flat


def train_steps(method: Method, data: IMDBDataModule, steps: int) -> list[dict[str, float]]:
    """Fit for some policy steps; what each measured."""
    measured: list[dict[str, float]] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            measured.append(dict(pl_module.step_metrics))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator="cpu", devices=1, max_epochs=steps, logger=False, enable_checkpointing=False, enable_model_summary=False,
            enable_progress_bar=False, limit_val_batches=0, num_sanity_val_steps=0, callbacks=[Keep()],
        )  # fmt: skip
        trainer.fit(method, data)
    return measured
