"""The gain of a relaxed method's reward gradient, learned from RLOO's gradient of hard rollouts while training."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.distributed import gather_objects, world
from grade_lightning.estimators import GainAverage, PairedSums, gumbel_noise
from grade_lightning.methods.base import Context, Totals
from grade_lightning.methods.gradients import give_gradient, take_gradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.paired import Pair, chunks_of, reduced
from grade_lightning.rollout.noise import keyed_generator
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.method import CHUNKS
from grade_lightning.settings.relaxed import GradeSettings

if TYPE_CHECKING:
    from grade_lightning.methods.grade import GradeGradient

COMPLETIONS = 4  # of each prompt of a calibration batch


class Calibration(nn.Module):
    """Scales the reward gradient, never the KL's, by what earlier steps say that it is too short.

    A straight-through gradient of the reward points as the policy gradient does and is shorter, while the KL's has its full length, so that
    a nominal weight beta of the KL acts as beta / c, c = cosine x ratio of lengths.  The gain of a step is made from the moments of earlier
    steps alone: no sample weighs itself.

    Where completions of hard tokens stand in groups, the step's own rollouts serve both estimators.  Otherwise a batch of its own is
    sampled: the step's first prompts, several completions each; for a method that feeds mixtures, of hard tokens for RLOO and of mixtures
    for it, from the same noise.

    Args:
        context: of the run; its reward is that whose gradient RLOO has.
        grade: whose gradient is scaled.

    Attributes:
        state: of :class:`grade_lightning.estimators.GainAverage`, part of a checkpoint.
    """

    state: Tensor

    def __init__(self, context: Context, grade: GradeGradient):
        super().__init__()
        own: GradeSettings = grade.settings
        self.every, self.by_layer, self.grouped = own.gain_every, own.gain_scope == "layer", own.gain_of_own
        self.pair = Pair(context, grade, own.completions_per_prompt if self.grouped else COMPLETIONS)
        self.context = context
        self.average = GainAverage(len(self.pair.sizes) if self.by_layer else 1, momentum=own.gain_momentum, form=own.gain_form)
        self.register_buffer("state", self.average.state.clone())

    def gains(self) -> Tensor:
        """[L] or [1]: of the coming step."""
        self.average.state = self.state.cpu()
        return self.average.estimate().trusted

    def accumulate(self, grade: GradeGradient, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """The calibrated gradient of a batch, and what it teaches later steps."""
        gains, due, weights = self.gains(), step % self.every == 0 or step == 1, self.pair.weights
        meter.update(reward_gain=float(gains.mean()))
        if not math.isnan(cosine := self.average.cosine):
            meter.update(gain_cosine=cosine)
        if not self.by_layer and not (due and self.grouped):
            grade.gain = float(gains)
            grade.accumulate_plainly(rollouts, totals, meter, step)
            grade.gain = 1.0
        else:
            before = take_gradient(weights)
            sums, reward, kl = self._apart(rollouts, totals, meter, step, due=due and self.grouped)
            reward = torch.cat([g * part for g, part in zip(self._each(gains).to(reward), reward.split(self.pair.sizes), strict=True)])
            give_gradient(weights, before + reward + kl)
            if grade.apart is not None:
                grade.apart.set(reward, kl)
        if due:
            self._learn(sums if self.grouped else self._calibration_batch(rollouts, step))

    def _each(self, gains: Tensor) -> Tensor:
        return gains if self.by_layer else gains.expand(len(self.pair.sizes))

    def _apart(
        self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, *, due: bool
    ) -> tuple[PairedSums, Tensor, Tensor]:  # fmt: skip
        """Sums over chunks, and the whole gradients of reward and KL.  -> sums, [D], [D]."""
        sums = self.pair.sums()
        if not due:
            return sums, *self.pair.straight_through(rollouts, totals, meter, step)
        parts = []
        for chunk in chunks_of(rollouts):
            found = self.pair.chunk(chunk, totals, meter, step)
            sums.add(found.unbiased, found.biased)
            parts.append(found)
        reward, kl = (torch.stack([getattr(part, name) for part in parts]).sum(dim=0) for name in ("biased", "kl"))
        return sums, reward, kl

    def _calibration_batch(self, rollouts: list[Rollout], step: int) -> PairedSums:
        """Sums over the step's first prompts, each with completions of its own; the gradient of the step is not touched."""
        weights, sums, soft = self.pair.weights, self.pair.sums(), self.pair.biased.relaxation(step)
        policy, settings, kept = self.context.policy, self.context.rollout, take_gradient(weights)
        for prompt, counts in self._shared_out([one for rollout in rollouts for one in _first(rollout.prompt)]):
            generator = keyed_generator("reward gain", self.context.seed, step, int(prompt.rows[0]))
            noise = gumbel_noise((COMPLETIONS, settings.max_new_tokens, settings.top_k), generator=generator).to(prompt.ids.device)
            rollout = sample(policy, prompt.repeat(COMPLETIONS), noise, settings)
            relaxed = None if soft is None else [sample(policy, prompt.repeat(COMPLETIONS), noise, settings, soft=soft)]
            totals = Totals(COMPLETIONS, max(1, rollout.tokens))
            found = self.pair.chunk([rollout], totals, Meter(policy.device), step, relaxed=relaxed, alone=True)
            if counts:
                sums.add(found.unbiased, found.biased)
        give_gradient(weights, kept)
        return sums

    def _shared_out(self, own: list[PromptBatch]) -> list[tuple[PromptBatch, bool]]:
        """Prompts whose gradients this process makes, and whether they count: its own; where processes make their passes through the layers
        together, as many for each, the last ones maybe for company alone."""
        if not self.context.policy.sharded:
            return [(prompt, True) for prompt in own]
        rank, processes = world()
        prompts = [prompt for part in gather_objects([one.to("cpu") for one in own]) for prompt in part]
        places = range(rank, -(-len(prompts) // processes) * processes, processes)
        return [(prompts[min(place, len(prompts) - 1)].to(self.context.policy.device), place < len(prompts)) for place in places]

    def _learn(self, sums: PairedSums) -> None:
        everywhere = reduced(sums)
        if everywhere.chunks < 2:
            return
        signal = torch.stack([moments.signal for moments in everywhere.moments()])
        self.average.add(signal if self.by_layer else signal.sum(dim=0, keepdim=True))
        self.state.copy_(self.average.state)


def _first(prompt: PromptBatch) -> list[PromptBatch]:
    """Prompts among the first of the whole effective batch, one by one: the same for any number of micro-batches and processes."""
    return [prompt[row : row + 1] for row in range(len(prompt)) if int(prompt.rows[row]) < CHUNKS]
