"""What the policy gradients share: frozen readings of a rollout, and how the KL enters."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grade_lightning.chain.logprobs import TokenStatistics, token_statistics
from grade_lightning.chain.parallel import hard_hidden, read_frozen
from grade_lightning.distributed import gather_rows, my_rows
from grade_lightning.estimators import SAMPLED_KL, reinforce_loss, sampled_kl
from grade_lightning.methods.base import Context, Method, Totals, score_measurements
from grade_lightning.methods.meter import Meter
from grade_lightning.rollout.types import Rollout

MOMENTUM = 0.95  # of the average scale of the reward's gradient: twenty steps


@dataclass
class Sampled:
    """One micro-batch and what the frozen models say about it.

    Attributes:
        rollout: B completions.
        scores: [B] of the reward.
        reference_hidden: [B, T, d] the reference's predicting states.
    """

    rollout: Rollout
    scores: Tensor
    reference_hidden: Tensor


class PolicyGradient(Method):
    """Base of methods that ascend the reward by the log-probabilities of their own samples.

    Sampling and log-probabilities use the same distribution (``logprobs=matched``), so that the samples are on-policy.

    Attributes:
        reward_scale: length of this step's reward gradient over that of the unnormalised estimator, see :func:`scale_of`; where the rewards
            say nothing, that of the last step at which they did.
        known_scale: the last one that rewards told, nan before; part of a checkpoint.
        scale_sums: [2] scales of steps times their weights, and these weights, both falling by :data:`MOMENTUM` a step; in checkpoints too.
        kl_scale: what a matched KL is scaled by in this step: :attr:`average_scale`, read once.
        by_step: whether a matched KL follows the scale of the step itself and not the average.
    """

    reward_scale: float = 1.0
    kl_scale: float = 1.0
    known_scale: Tensor
    scale_sums: Tensor
    by_step = False

    def __init__(self, context: Context, settings: Any = None, **values: Any):
        super().__init__(context, settings, **values)
        self.register_buffer("known_scale", torch.tensor(float("nan"), dtype=torch.float64))
        self.register_buffer("scale_sums", torch.zeros(2, dtype=torch.float64))

    def note_scale(self, scale: Scale | None, least_known: float) -> None:
        """Keep a step's scale; of the first steps without one what is known of it anyway."""
        if scale is not None:
            self.known_scale.fill_(max(0.0, scale.value))
            sums = torch.tensor([scale.value * scale.weight, scale.weight], dtype=torch.float64, device=self.scale_sums.device)
            self.scale_sums.mul_(MOMENTUM).add_(sums)
        self.reward_scale = least_known if self.known_scale.isnan() else float(self.known_scale)
        self.kl_scale = self.average_scale

    @property
    def average_scale(self) -> float:
        """Mean length of the reward's gradient over that of the unnormalised estimator's, over steps: what a matched KL is scaled by.

        A batch whose rewards hardly differ has a short gradient and, divided by their spread, a long one: by its own scale the KL would
        weigh a hundred times as much in that step.
        """
        value, weight = (float(total) for total in self.scale_sums)
        return max(0.0, value / weight) if weight > 0 and not self.by_step else self.reward_scale

    def accumulate_plainly(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        known, sums = self.known_scale.clone(), self.scale_sums.clone()
        try:
            super().accumulate_plainly(rollouts, totals, meter, step)
        finally:
            self.known_scale.copy_(known)
            self.scale_sums.copy_(sums)

    def read(self, rollout: Rollout, meter: Meter) -> Sampled:
        """Score a micro-batch and measure the score."""
        frozen = read_frozen(self.policy, self.reward, rollout)
        meter.update(len(rollout), **score_measurements(self.reward, frozen.scored))
        return Sampled(rollout, frozen.scored.scores, frozen.reference_hidden)

    def statistics(self, sampled: Sampled, hidden: Tensor) -> TokenStatistics:
        """Log-probabilities, entropy and KL of a micro-batch, given the policy's predicting states [B, T, d]."""
        return token_statistics(self.policy, sampled.rollout, hidden, sampled.reference_hidden, logprobs=self.context.protocol.logprobs)

    def measure(self, sampled: Sampled, found: TokenStatistics, meter: Meter) -> None:
        """KL and entropy in nats per real token."""
        rollout = sampled.rollout
        kl, entropy = (torch.where(rollout.mask, x.detach(), 0.0).sum() / rollout.tokens for x in (found.kl, found.entropy))
        meter.update(rollout.tokens, kl=kl, entropy=entropy)

    # -- KL ------------------------------------------------------------------------------------------------------------

    def kl_per_token(self, found: TokenStatistics, rollout: Rollout, totals: Totals) -> Tensor:
        """[B, T] terms of the chosen estimate whose sum over the effective batch is the KL term of the objective, before beta."""
        protocol = self.context.protocol
        if protocol.kl_estimator == "k1_mean":
            share = rollout.mask.sum(dim=1, keepdim=True).clamp_min(1) * totals.samples
            return torch.where(rollout.mask, found.log_ratio / share, 0.0)
        exact = protocol.kl_estimator not in SAMPLED_KL
        terms = found.kl if exact else torch.where(rollout.mask, sampled_kl(found.log_ratio, protocol.kl_estimator), 0.0)
        return terms * totals.kl_weight(protocol.kl_reduction)

    def kl_loss(self, found: TokenStatistics, rollout: Rollout, totals: Totals) -> Tensor:
        """beta KL where it belongs to the loss, scaled as the reward's gradient is where that is asked for."""
        scale = self.kl_scale if getattr(self.settings, "match_kl", False) else 1.0
        return scale * self.context.kl_in_loss * self.kl_per_token(found, rollout, totals).sum()

    def kl_penalty(self, found: TokenStatistics, rollout: Rollout, totals: Totals) -> Tensor:
        """[B, T] what the KL takes from each token's reward where it belongs to the reward, in units of the score."""
        if self.context.protocol.kl_in != "reward":
            return torch.zeros_like(found.kl)
        return self.context.kl_coef * totals.samples * self.kl_per_token(found, rollout, totals).detach()


class Scale(NamedTuple):
    """A step's <w, A> / <A, A>, and |A|, by which it counts in an average: that is of lengths along A over lengths of A."""

    value: float
    weight: float


def scale_of(weights: Tensor, advantages: Tensor, tokens: Tensor) -> Scale | None:
    """<w, A> / <A, A>, every token counting once: what normalisation multiplies the reward's gradient sum_i A_i grad log pi(y_i) by, where
    it uses w_i for A_i.

    A KL with its full length beside such a gradient weighs beta / scale.

    Args:
        weights: [B] what the method credits log-probabilities with, before the mean over completions.
        advantages: [B] the same without normalisation.
        tokens: [B] of each completion.

    Returns:
        None where all advantages are 0.
    """
    square = float((tokens * advantages * advantages).sum())
    return Scale(float((tokens * weights * advantages).sum()) / square, math.sqrt(square)) if square > 0 else None


class SequencePolicyGradient(PolicyGradient):
    """One update from completions credited as a whole; a subclass says how, in :meth:`advantages`.

    Attributes:
        alone: the rollouts that it is given are whole batches of this process, with which others have nothing to do.
    """

    alone = False

    @abstractmethod
    def advantages(self, rewards: Tensor) -> Tensor:
        """[B] advantages of the whole effective batch from its rewards [B]; a prompt's completions stand in a row."""

    def unnormalised(self, rewards: Tensor) -> Tensor | None:
        """[B] the advantages without any normalisation; None = :meth:`advantages` has none."""
        return None

    def lengths(self, rollout: Rollout) -> Tensor | None:
        """[B] what each completion's log-probability is divided by; None = nothing."""
        return None

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        for sampled, advantages in self.credit([self.read(rollout, meter) for rollout in rollouts], totals, meter):
            with self.dropout(sampled.rollout, step):
                self._accumulate(sampled, advantages, totals, meter)

    def credit(self, micro: list[Sampled], totals: Totals, meter: Meter) -> list[tuple[Sampled, Tensor]]:
        """Give each micro-batch its rows of the effective batch's advantages."""
        rewards = torch.cat([sampled.scores for sampled in micro])
        if self.context.protocol.kl_in == "reward":
            rewards = rewards - torch.cat([self._penalty(sampled, totals) for sampled in micro])
        everywhere = self._of_all(rewards)
        credited = self.advantages(everywhere)
        meter.update(advantage_std=float(credited.std(correction=0)))
        self._measure_scale(micro, credited, everywhere)
        meter.update(reward_scale=self.reward_scale, average_scale=self.kl_scale)
        advantages = credited if self.alone else credited[my_rows(len(everywhere))]
        return list(zip(micro, advantages.split([len(s.rollout) for s in micro]), strict=True))

    def _of_all(self, rows: Tensor) -> Tensor:
        """Rows of the whole effective batch, without gradients."""
        return rows.detach() if self.alone else gather_rows(rows)

    @torch.no_grad()
    def _measure_scale(self, micro: list[Sampled], credited: Tensor, rewards: Tensor) -> None:
        plain = self.unnormalised(rewards)
        if plain is None:
            return
        own = self._of_all(torch.cat([sampled.rollout.mask.sum(dim=1) for sampled in micro])).to(credited.dtype)
        divided = [self.lengths(sampled.rollout) for sampled in micro]
        by = torch.ones_like(own) if divided[0] is None else self._of_all(torch.cat([n for n in divided if n is not None]))
        self.note_scale(scale_of(credited / by, plain, own), float((1 / by).mean()))

    @torch.no_grad()
    def _penalty(self, sampled: Sampled, totals: Totals) -> Tensor:
        found = self.statistics(sampled, hard_hidden(self.policy, sampled.rollout))
        return self.kl_penalty(found, sampled.rollout, totals).sum(dim=1)

    def _accumulate(self, sampled: Sampled, advantages: Tensor, totals: Totals, meter: Meter) -> None:
        """Of one micro-batch."""
        found = self.statistics(sampled, hard_hidden(self.policy, sampled.rollout))
        self.backward(*self.losses(sampled, advantages, found, totals, meter))

    def losses(
        self, sampled: Sampled, advantages: Tensor, found: TokenStatistics, totals: Totals, meter: Meter
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """The loss [] of the reward and that of the KL, of one micro-batch with such statistics."""
        rollout = sampled.rollout
        self.measure(sampled, found, meter)
        loss, metrics = reinforce_loss(found.logprobs, advantages, rollout.mask, lengths=self.lengths(rollout))
        meter.update(len(rollout), **metrics)
        return loss * len(rollout) / totals.samples, self.kl_loss(found, rollout, totals)
