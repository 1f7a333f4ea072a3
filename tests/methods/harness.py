"""Running a method for a few steps without a run folder."""

from __future__ import annotations

import contextlib
import warnings

import lightning as L
import torch

from grade_lightning.data.module import ReviewDataModule
from grade_lightning.methods.base import Method, Totals
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.gradients import take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.run import OptimizerSettings
from grade_lightning.training.module import MethodModule, Plan
from tests.conftest import make_context, make_reward

_OPTIMIZER = ("lr", "max_grad_norm", "lr_decay_steps", "name")


def split_options(options: dict) -> tuple[dict, dict]:
    """Options of the optimizer and the accumulation, and those of the context."""
    plan = {name: options[name] for name in (*_OPTIMIZER, "grad_accumulation") if name in options}
    return plan, {name: value for name, value in options.items() if name not in plan}


def plan_of(**options) -> Plan:
    accumulation = options.pop("grad_accumulation", 1)
    return Plan(OptimizerSettings(**{"lr": 1e-5, **options}), accumulation)


def context_of(policy: Policy, *, scope: str = "full", reward=None, **options):
    return make_context(policy, reward or make_reward(policy, scope=scope), **options)


def make_module(kind: type[Method], policy: Policy, settings: dict, **options) -> MethodModule:
    """A method in the one module; ``options`` are of its context, its optimizer, or ``grad_accumulation``."""
    plan, context = split_options(options)
    return MethodModule(kind(context_of(policy, **context), **settings), plan_of(**plan))


def make_grade(policy: Policy, *, tau: float = 1.0, straight_through: bool = True, backprop: str = "adjoint", tol: float = 1e-12,
               max_hops: int | None = None, relaxation=None, **options) -> MethodModule:  # fmt: skip
    settings = {"temperature": lambda step: tau, "straight_through": straight_through, "backprop": backprop, "tol": tol,
                "max_hops": max_hops, "diagnostics_every": 1, "relaxation": relaxation}  # fmt: skip
    return make_module(GradeGradient, policy, settings, **options)


class _Stop(Exception):
    pass


def totals_of(rollouts: list[Rollout]) -> Totals:
    return Totals(sum(map(len, rollouts)), sum(rollout.tokens for rollout in rollouts))


def rollouts_of(module: MethodModule, batch) -> list[Rollout]:
    return module.sample_effective_batch(batch.repeat(module.method.completions_per_prompt))


def gradient(module: MethodModule, batch, *, updates: int = 1) -> torch.Tensor:
    """The gradient of one effective batch over all trainable weights, before clipping, at the given update of the step."""
    weights = [weight for group in module.configure_optimizers().param_groups for weight in group["params"]]
    rollouts, found = rollouts_of(module, batch), []

    def capture(meter):
        found.append(take_gradient(weights))
        if len(found) == updates:
            raise _Stop

    take_gradient(weights)
    with contextlib.suppress(_Stop):
        module.method.update(rollouts, totals_of(rollouts), Meter(), batch.step, capture)
    return found[-1]


def one_update(module: MethodModule, batch) -> dict[str, float]:
    """One whole policy step's change of the weights, without a trainer."""
    optimizer, meter = module.configure_optimizers(), Meter()
    module.optimizers = lambda *_: optimizer
    rollouts = rollouts_of(module, batch)
    module.update(rollouts, totals_of(rollouts), meter, batch.step)
    return meter.compute()


def train_steps(module: MethodModule, data: ReviewDataModule, steps: int) -> list[dict[str, float]]:
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
        trainer.fit(module, data)
    return measured
