"""One case of the benchmark in a process of its own, updating when it is told to: see :mod:`.serve`.

python -m experiments.benchmarks.measure CASE '{"new_tokens": 64, ...}'
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Callable
from typing import Any

import torch

from experiments.benchmarks.recompute import recompute_backward
from experiments.benchmarks.serve import serve
from experiments.benchmarks.setting import GROUP, Setting, load, prompts_of
from grade_lightning.methods import (
    AnnealedGradient,
    Context,
    GradeGradient,
    Method,
    PPOGradient,
    ReinforceGradient,
    RLOOGradient,
    Totals,
)
from grade_lightning.methods.meter import Meter
from grade_lightning.models.merged_lora import MergedLora
from grade_lightning.models.norms import FusedNorm
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.run import OptimizerSettings
from grade_lightning.training.module import MethodModule, Plan
from grade_lightning.training.process import prepare_process

Update = Callable[[], dict[str, float]]
STEP = 2  # the second policy step: a mixture's first one has no policy gradient


def _context(setting: Setting, policy: Any, reward: Any) -> Context:
    return Context(policy, reward, setting.rollout(), seed=0, kl_coef=setting.kl_coef)


def _grade(setting: Setting, policy: Any, reward: Any, **options: Any) -> GradeGradient:
    return GradeGradient(
        _context(setting, policy, reward), temperature=lambda step: setting.tau, straight_through=setting.straight_through,
        diagnostics_every=0, **options,
    )  # fmt: skip


def halves_of(
    method: Method, batch: Any, meter: Callable[[Any], Any] = Meter
) -> tuple[Callable[[], list[Rollout]], Callable[[list[Rollout]], dict[str, float]]]:
    """Sampling, and gradient with optimizer step, without a trainer."""
    module = MethodModule(method, Plan(OptimizerSettings(lr=1e-4)))
    optimizer = module.configure_optimizers()
    batch = batch.repeat(method.completions_per_prompt)

    def learn(rollouts: list[Rollout]) -> dict[str, float]:
        measured = meter(method.policy.device)
        totals = Totals(len(batch), sum(r.tokens for r in rollouts))
        method.update(rollouts, totals, measured, STEP, lambda taken: module.apply_gradients(optimizer, taken, STEP))
        found: dict[str, float] = measured.compute()
        return found

    return lambda: module.sample_effective_batch(batch), learn


def method_update(method: Method, batch: Any, meter: Callable[[Any], Any] = Meter) -> Update:
    """Sampling, gradient and optimizer step, without a trainer."""
    draw, learn = halves_of(method, batch, meter)
    return lambda: learn(draw())


def recompute_update(setting: Setting, policy: Any, reward: Any, batch: Any) -> Update:
    optimizer = torch.optim.AdamW(policy.trainable().values(), lr=1e-4)

    def update() -> dict[str, float]:
        optimizer.zero_grad()
        noise = training_noise(0, 1, len(batch), setting.new_tokens, setting.top_k)
        recompute_backward(policy, reward, batch, noise, setting.rollout(), tau=setting.tau, kl_coef=setting.kl_coef,
                           straight_through=setting.straight_through)  # fmt: skip
        torch.nn.utils.clip_grad_norm_(policy.trainable().values(), 1.0)
        optimizer.step()
        return {}

    return update


def plain_layers(policy: Policy) -> None:
    """Put the adapters of PEFT and the norms of transformers back, as any other program has them."""
    MergedLora.remove(policy.peft)
    FusedNorm.remove(policy.lm)


def method_of(case: str, setting: Setting, policy: Any, reward: Any) -> Method:
    """The method that a case measures."""
    methods: dict[str, Callable[[], Method]] = {
        "adjoint": lambda: _grade(setting, policy, reward, tol=setting.tol, max_hops=setting.max_hops),
        "sequential": lambda: _grade(setting, policy, reward, backprop="sequential"),
        "reinforce": lambda: ReinforceGradient(_context(setting, policy, reward)),
        "ppo": lambda: PPOGradient(_context(setting, policy, reward)),
        "rloo": lambda: RLOOGradient(_context(setting, policy, reward), completions_per_prompt=GROUP),
        "annealed": lambda: AnnealedGradient(
            _context(setting, policy, reward),
            temperature=lambda step: setting.tau,
            half=1.0,
            reward_gain=3.0,
            completions_per_prompt=GROUP,
            diagnostics_every=0,
            tol=setting.tol,
            max_hops=setting.max_hops,
        ),
    }
    return methods[case]()


def make(case: str, setting: Setting) -> Update:
    recomputes = case.startswith("recompute")
    base, policy, reward = load(dataclasses.replace(setting, checkpointing=recomputes or setting.checkpointing))
    batch = prompts_of(case, setting, base)
    if case == "recompute":  # "recompute_merged" has the linear layers and the norms of ours
        plain_layers(policy)
    if recomputes:
        return recompute_update(setting, policy, reward, batch)
    return method_update(method_of(case, setting, policy, reward).to(setting.device), batch)


def main() -> None:
    case, setting = sys.argv[1], Setting(**json.loads(sys.argv[2]))
    prepare_process()
    if case == "trl_rloo":
        from experiments.benchmarks.trl_case import serve_trl

        serve_trl(setting)
        return
    serve(make(case, setting), setting.device)


if __name__ == "__main__":
    main()
