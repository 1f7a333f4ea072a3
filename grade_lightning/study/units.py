"""Gradients of single units: one prompt with a few completions, as a method would see it in a batch."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.methods.base import Method, Totals
from grade_lightning.methods.grade import GRADE
from grade_lightning.methods.gradients import take_gradients
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import SequencePolicyGradient
from grade_lightning.methods.reinforce import REINFORCE
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout


@dataclass(frozen=True)
class Unit:
    """One estimate.

    Attributes:
        gradient: [D] of -E[r] + beta KL over all trainable weights, before clipping.
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
    if not isinstance(method, GRADE | SequencePolicyGradient):
        raise ValueError(
            f"{type(method).__name__} has no single-sample gradient to measure (several updates a batch, or weights that depend on the "
            "batch): measure its parents; the hybrid is derived from rloo and grade_ste"
        )


class UnitSampler:
    """Draws units: the same prompt and noise give every method that feeds hard tokens the same rollout.

    Args:
        method: GRADE or a sequence policy gradient.
        step: policy step whose temperature is used.
        baseline: of REINFORCE, held fixed; None for other methods.
    """

    def __init__(self, method: Method, *, step: int = 1, baseline: float | None = None):
        check_measurable(method)
        self.method, self.step, self.baseline = method, step, baseline

    def rollout(self, prompt: PromptBatch, noise: Tensor) -> Rollout:
        shared = self.method.shared
        return sample(self.method.policy, prompt, noise, shared.rollout, soft=self.method.relaxation(self.step))

    def unit(self, prompt: PromptBatch, noise: Tensor) -> Unit:
        """One prompt repeated G times and its noise [G, T, k]."""
        method, start, meter = self.method, time.perf_counter(), Meter(self.method.policy.device)
        rollout = self.rollout(prompt, noise)
        totals = Totals(len(rollout), rollout.tokens)
        weights = list(method.policy.trainable().values())
        take_gradients(weights)  # whatever was there before
        if isinstance(method, GRADE):
            method.accumulate(rollout, totals, meter, self.step)
        else:
            assert isinstance(method, SequencePolicyGradient)
            if isinstance(method, REINFORCE):
                method.baseline.fill_(float("nan") if self.baseline is None else self.baseline)
            for sampled, advantages in method.credit([rollout], totals, meter):
                method.accumulate(sampled, advantages, totals, meter)
        grads = take_gradients(weights)
        spread = float(torch.stack([grad.float().norm() for grad in grads]).std(correction=0))  # a GPU is done once this is known
        flat = torch.cat([grad.flatten() for grad in grads])
        seconds = time.perf_counter() - start
        return Unit(flat, spread, rollout.tokens, seconds, meter.compute()["reward"])
