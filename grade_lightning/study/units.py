"""Gradients of single units: one prompt with a few completions, as a method would see it in a batch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.methods.base import Method, Totals
from grade_lightning.methods.gradients import Apart, take_gradients
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout


@dataclass(frozen=True)
class Unit:
    """One estimate.

    Attributes:
        gradient: [D] of -E[r] + beta KL, or of the part that was asked for, over all trainable weights, before clipping.
        tensor_spread: standard deviation (ddof 0) over parameter tensors of their gradients' norms: the paper's "Grad Var".
        tokens: completion tokens sampled; seconds: of rollout and gradient; reward: mean.
    """

    gradient: Tensor
    tensor_spread: float
    tokens: int
    seconds: float
    reward: float


def check_measurable(method: Method) -> None:
    """Raise ValueError for a method whose step is not one gradient of one batch."""
    if not method.settings.one_gradient:
        raise ValueError(
            f"{type(method).__name__} has no single-sample gradient to measure (several updates a batch, or weights that depend on the "
            "batch): measure its parents; the hybrid is derived from rloo and grade_ste"
        )


class UnitSampler:
    """Draws units: the same prompt and noise give every method that feeds hard tokens the same rollout.

    Args:
        method: whose step is one gradient of one batch.
        step: policy step whose temperature is used.
        baseline: mean reward that a method with a baseline of its own takes for each unit; None = the unit's own.
        part: ``reward`` or ``kl``, whose gradient is measured apart; None = the whole.
    """

    def __init__(self, method: Method, *, step: int = 1, baseline: float | None = None, part: str | None = None):
        check_measurable(method)
        self.method, self.step, self.baseline, self.part = method, step, baseline, part

    def rollout(self, prompt: PromptBatch, noise: Tensor) -> Rollout:
        return sample(self.method.policy, prompt, noise, self.method.context.rollout, soft=self.method.relaxation(self.step))

    def unit(self, prompt: PromptBatch, noise: Tensor) -> Unit:
        """One prompt repeated G times and its noise [G, T, k]."""
        method, start, meter = self.method, time.perf_counter(), Meter(self.method.policy.device)
        rollout = self.rollout(prompt, noise)
        weights = list(method.policy.trainable().values())
        take_gradients(weights)  # whatever was there before
        method.hold_baseline(self.baseline)
        apart = method.apart = None if self.part is None else Apart(weights)
        method.accumulate_plainly([rollout], Totals(len(rollout), rollout.tokens), meter, self.step)
        method.apart = None
        grads = take_gradients(weights)
        if apart is not None and self.part is not None:
            grads = [g.view_as(w) for g, w in zip(getattr(apart, self.part).split([w.numel() for w in weights]), weights, strict=True)]
        spread = float(torch.stack([grad.float().norm() for grad in grads]).std(correction=0))  # a GPU is done once this is known
        flat = torch.cat([grad.flatten() for grad in grads])
        seconds = time.perf_counter() - start
        return Unit(flat, spread, rollout.tokens, seconds, meter.compute()["reward"])


@torch.no_grad()
def perturb(policy: Policy, deviation: float) -> None:
    """Give adapters at their start B values of their own, the same every time: where B is 0, half of a gradient is 0.

    Args:
        policy: whose adapters are changed.
        deviation: standard deviation of B.
    """
    generator = torch.Generator().manual_seed(0)
    for name, weight in policy.trainable().items():
        if "lora_B" in name:
            weight.copy_(deviation * torch.randn(weight.shape, generator=generator))
