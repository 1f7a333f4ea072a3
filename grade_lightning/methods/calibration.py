"""The gain of a relaxed method's reward gradient, learned from RLOO's gradient of hard rollouts while training."""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.distributed import gather_objects, sum_tensor, world
from grade_lightning.estimators import GainAverage, gumbel_noise
from grade_lightning.methods.base import Context, Totals
from grade_lightning.methods.gradients import give_gradient, take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.paired import Pair
from grade_lightning.rewards.base import Learning
from grade_lightning.rollout.noise import keyed_generator
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.relaxed import GradeSettings

if TYPE_CHECKING:
    from grade_lightning.methods.grade import GradeGradient

PROMPTS, COMPLETIONS = 4, 4  # of a calibration batch


class Calibration(nn.Module):
    """Scales the reward gradient, never the KL's, by what earlier steps say that it is too short.

    A straight-through gradient of the reward points as the policy gradient does and is shorter, while the KL's has its full length, so that
    a nominal weight beta of the KL acts as beta / c, c = cosine x ratio of lengths.  The gain of a step is made from gradients of earlier
    steps alone: no sample weighs itself.

    Where completions of hard tokens stand in groups, the step's own rollouts serve both estimators.  Otherwise a batch of its own is
    sampled: the step's first prompts, several completions each; for a method that feeds mixtures, of hard tokens for RLOO and of mixtures
    for it, from the same noise.  Of a surrogate's gradient the gain makes up for what the surrogate does not know of the reward, too.

    Args:
        context: of the run; its reward is that whose gradient RLOO has.
        grade: whose gradient is scaled.

    Attributes:
        average: what steps have taught, part of a checkpoint.
    """

    def __init__(self, context: Context, grade: GradeGradient):
        super().__init__()
        own: GradeSettings = grade.settings
        self.every, self.by_layer, self.grouped = own.gain_every, own.gain_scope == "layer", own.gain_of_own
        self.pair = Pair(context, grade, own.completions_per_prompt if self.grouped else COMPLETIONS)
        self.context = context
        sizes = self.pair.sizes if self.by_layer else [sum(self.pair.sizes)]
        self.average = GainAverage(sizes, momentum=own.gain_momentum, form=own.gain_form, like=self.pair.weights[0].detach())

    def accumulate(self, grade: GradeGradient, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """The calibrated gradient of a batch, and what it teaches later steps."""
        gains, due, weights = self.average.estimate().trusted, step % self.every == 0 or step == 1, self.pair.weights
        meter.update(reward_gain=float(gains.mean()))
        if not math.isnan(cosine := self.average.cosine):
            meter.update(gain_cosine=cosine)
        if not self.by_layer and not (due and self.grouped):
            grade.gain = float(gains)
            try:
                grade.accumulate_plainly(rollouts, totals, meter, step)
            finally:
                grade.gain = 1.0
        else:
            before = take_gradient(weights)
            if due and self.grouped:
                unbiased, biased, kl = self.pair.gradients(rollouts, totals, meter, step)
            else:
                biased, kl = self.pair.straight_through(rollouts, totals, meter, step)
            parts = biased.split(self.average.sizes)
            reward = torch.cat([gain * part for gain, part in zip(gains.to(biased), parts, strict=True)])
            give_gradient(weights, before + reward + kl)
            if grade.apart is not None:
                grade.apart.set(reward, kl)
        if due:
            self._learn(*((unbiased, biased) if self.grouped else self._calibration_batch(rollouts, step)))

    def _calibration_batch(self, rollouts: list[Rollout], step: int) -> tuple[Tensor, Tensor]:
        """Both gradients [D] of the step's first prompts, each with completions of its own; the gradient of the step is not touched, and a
        reward that learns does not learn from them."""
        reward = self.pair.biased.reward
        with reward.aside() if isinstance(reward, Learning) else nullcontext():
            return self._of_first(rollouts, step)

    def _of_first(self, rollouts: list[Rollout], step: int) -> tuple[Tensor, Tensor]:
        weights, soft = self.pair.weights, self.pair.biased.relaxation(step)
        policy, settings, kept = self.context.policy, self.context.rollout, take_gradient(weights)
        unbiased, biased = torch.zeros_like(kept), torch.zeros_like(kept)
        for prompt, counts in self._shared_out([one for rollout in rollouts for one in self._first(rollout.prompt)]):
            generator = keyed_generator("reward gain", self.context.seed, step, int(prompt.rows[0]))
            noise = gumbel_noise((COMPLETIONS, settings.max_new_tokens, settings.top_k), generator=generator).to(prompt.ids.device)
            rollout = sample(policy, prompt.repeat(COMPLETIONS), noise, settings)
            relaxed = None if soft is None else [sample(policy, prompt.repeat(COMPLETIONS), noise, settings, soft=soft)]
            totals = Totals(COMPLETIONS, max(1, rollout.tokens))
            found = self.pair.gradients([rollout], totals, Meter(policy.device), step, relaxed=relaxed, alone=True)
            if counts:
                unbiased, biased = unbiased + found.unbiased, biased + found.biased
        give_gradient(weights, kept)
        return unbiased, biased

    def _first(self, prompt: PromptBatch) -> list[PromptBatch]:
        """Prompts among the first of the whole effective batch, one by one: the same for any number of micro-batches and processes."""
        each = self.pair.biased.completions_per_prompt  # rows in a row that have the same prompt
        rows = [row for row, place in enumerate(prompt.rows.tolist()) if place % each == 0 and place // each < PROMPTS]
        return [prompt[row : row + 1] for row in rows]

    def _shared_out(self, own: list[PromptBatch]) -> list[tuple[PromptBatch, bool]]:
        """Prompts whose gradients this process makes, and whether they count: its own; where processes make their passes through the layers
        together, as many for each, the last ones maybe for company alone."""
        if not self.context.policy.sharded:
            return [(prompt, True) for prompt in own]
        rank, processes = world()
        prompts = [prompt for part in gather_objects([one.to("cpu") for one in own]) for prompt in part]
        places = range(rank, -(-len(prompts) // processes) * processes, processes)
        return [(prompts[min(place, len(prompts) - 1)].to(self.context.policy.device), place < len(prompts)) for place in places]

    def _learn(self, unbiased: Tensor, biased: Tensor) -> None:
        """Take in what both estimators say of one batch, of which this process has a share.

        Raises:
            FloatingPointError: either gradient is not finite.
        """
        whole = sum_tensor(unbiased), sum_tensor(biased)
        if not all(bool(gradient.isfinite().all()) for gradient in whole):
            raise FloatingPointError("a gradient that calibrates reward_gain is not finite: lower optimizer.lr, or give a number")
        self.average.add(*whole)
