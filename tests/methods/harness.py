"""Running a method for a few steps without a run folder."""

from __future__ import annotations

import contextlib
import warnings

import lightning as L
import torch

from grade_lightning.data.module import IMDBDataModule
from grade_lightning.methods import GRADE
from grade_lightning.methods.base import Method, Shared, Totals
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from tests.conftest import make_reward, make_shared


def shared_of(policy: Policy, **options) -> Shared:
    return make_shared(policy, make_reward(policy, scope=options.pop("scope", "full")), **options)


def make_grade(policy: Policy, *, tau: float = 1.0, straight_through: bool = True, backprop: str = "adjoint", tol: float = 1e-12,
               max_hops: int | None = None, relaxation=None, **shared) -> GRADE:  # fmt: skip
    return GRADE(
        shared_of(policy, **shared), temperature=lambda step: tau, straight_through=straight_through, backprop=backprop,
        tol=tol, max_hops=max_hops, diagnostics_every=1, relaxation=relaxation,
    )  # fmt: skip


class _Stop(Exception):
    pass


def gradient(method: Method, batch, *, updates: int = 1) -> torch.Tensor:
    """The gradient of one effective batch over all trainable weights, before clipping, at the given update of the step."""
    optimizer, flat = method.configure_optimizers(), []

    def capture(meter, step):
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        flat[:] = [torch.cat([weight.grad.flatten() for weight in weights])]
        optimizer.zero_grad()
        capture.calls += 1
        if capture.calls == updates:
            raise _Stop

    capture.calls = 0
    method.optimizers, method.apply_gradients = lambda: optimizer, capture
    batch = batch.repeat(method.completions_per_prompt)
    rollouts = method.sample_effective_batch(batch)
    totals = Totals(len(batch), sum(rollout.tokens for rollout in rollouts))
    with contextlib.suppress(_Stop):
        method.update(rollouts, totals, Meter(), batch.step)
    return flat[0]


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
