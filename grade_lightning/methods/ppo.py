"""PPO with a value head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from grade_lightning.chain.parallel import hard_hidden
from grade_lightning.distributed import gather_rows, my_rows
from grade_lightning.estimators import gae, ppo_clip_loss, value_loss, whiten
from grade_lightning.methods.base import Apply, Context, Totals
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import PolicyGradient, Sampled, Scale, scale_of
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.methods import PPOSettings

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class _Experience:
    """A micro-batch with what is fixed over the epochs, all [B, T]; ``rewards`` without the terminal one."""

    sampled: Sampled
    old_logprobs: Tensor
    old_values: Tensor
    rewards: Tensor
    advantages: Tensor = field(init=False)
    returns: Tensor = field(init=False)


class PPOGradient(PolicyGradient):
    """Several clipped updates from each batch of rollouts (eq. 6); values read detached final hidden states.

    Args:
        context, settings, **values: see :class:`grade_lightning.methods.base.Method` and
            :class:`grade_lightning.settings.methods.PPOSettings`.
    """

    Settings = PPOSettings

    def __init__(self, context: Context, settings: PPOSettings | None = None, **values: Any):
        super().__init__(context, settings, **values)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(context.seed)
            self.value_head = nn.Linear(self.policy.embedding.shape[1], 1).to(self.policy.device)
        if self.settings.value_head_dtype == "fp32":  # a first value of 0 everywhere
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.value_head.to(DTYPES[self.settings.value_head_dtype])

    def weight_groups(self, lr: float) -> list[dict[str, Any]]:
        return [{"params": list(self.value_head.parameters()), "lr": self.settings.value_lr or lr}]

    def values(self, hidden: Tensor) -> Tensor:
        """[B, T, d] -> [B, T], in fp32 (fp64 stays fp64) whatever the base and the head compute in."""
        values = self.value_head(hidden.detach().to(self.value_head.weight.dtype)).squeeze(-1)
        return values.double() if hidden.dtype == torch.float64 else values.float()

    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """The gradient of the first update from a batch, where every ratio is 1."""
        self._epoch(self.experience(rollouts, totals, meter), totals, meter, step)

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, apply: Apply) -> None:
        batch, updates = self.experience(rollouts, totals, meter), 0
        for _ in range(self.settings.epochs):
            epoch = Meter(self.policy.device)
            self._epoch(batch, totals, epoch, step)
            measured = epoch.compute()
            if self.settings.target_kl is not None and measured["approx_kl"] > self.settings.target_kl:
                break
            meter.update(**measured)
            apply(meter)
            updates += 1
        meter.update(updates=updates)

    def experience(self, rollouts: list[Rollout], totals: Totals, meter: Meter) -> list[_Experience]:
        """What stays fixed over the epochs, advantages included, micro-batch by micro-batch."""
        batch = [self._experience(self.read(rollout, meter), totals, meter) for rollout in rollouts]
        self._credit(batch, meter)
        return batch

    def _epoch(self, batch: list[_Experience], totals: Totals, meter: Meter, step: int) -> None:
        """Add the gradient of one update."""
        for experience in batch:
            with self.dropout(experience.sampled.rollout, step):
                self._accumulate(experience, totals, meter)

    @torch.no_grad()
    def _experience(self, sampled: Sampled, totals: Totals, meter: Meter) -> _Experience:
        """Old log-probabilities and values of a micro-batch; its advantages come with the whole batch."""
        rollout, hidden = sampled.rollout, hard_hidden(self.policy, sampled.rollout)
        found = self.statistics(sampled, hidden)
        self.measure(sampled, found, meter)
        return _Experience(sampled, found.logprobs, self.values(hidden), -self.kl_penalty(found, rollout, totals))

    def _credit(self, batch: list[_Experience], meter: Meter) -> None:
        """Advantages and returns over the whole effective batch, all processes together."""
        width = self.context.rollout.max_new_tokens
        columns = [[e.rewards, e.old_values, e.sampled.rollout.mask] for e in batch]
        rewards, values, mask = (gather_rows(torch.cat([pad_columns(t, width) for t in c])) for c in zip(*columns, strict=True))
        scores = gather_rows(torch.cat([e.sampled.scores for e in batch])).to(rewards.dtype)
        lengths = mask.sum(dim=1)
        last = lengths if self.settings.terminal_reward == "last_token" else lengths.max().expand_as(lengths)
        rewards = rewards.scatter_add(1, last.unsqueeze(1) - 1, scores.unsqueeze(1))
        advantages, returns = self._estimate(rewards, values, mask)
        real = mask.bool()
        meter.update(explained_variance=explained_variance(values[real], returns[real]))
        self._measure_scale(advantages, scores, mask, last, meter)
        if self.settings.whiten_advantages:
            advantages = whiten(advantages, mask)
        mine, sizes = my_rows(len(mask)), [len(e.sampled.rollout) for e in batch]
        for experience, a, r in zip(batch, advantages[mine].split(sizes), returns[mine].split(sizes), strict=True):
            columns_here = experience.old_values.shape[1]
            experience.advantages, experience.returns = a[:, :columns_here], r[:, :columns_here]

    def _estimate(self, rewards: Tensor, values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Advantages and returns by the generalised advantage estimate, along the axis that was chosen."""
        chosen = {"gamma": self.settings.gamma, "lam": self.settings.lam}
        if self.settings.gae_axis == "time":
            return gae(rewards, values, mask, **chosen)
        advantages, returns = gae(rewards.T, values.T, torch.ones_like(mask.T), **chosen)
        return advantages.T, returns.T

    def _measure_scale(self, advantages: Tensor, scores: Tensor, mask: Tensor, last: Tensor, meter: Meter) -> None:
        """What whitening, discounts and means over tokens multiply the reward's gradient by, against r - mean r at every token and a mean
        over completions.

        Values are control variates, which change a gradient's noise and not its expectation: the discounts are measured without them.
        """
        real = mask.bool()
        plain = (scores - scores.mean()).unsqueeze(1).expand_as(advantages)
        at_end = torch.zeros_like(advantages).scatter_add(1, last.unsqueeze(1) - 1, plain[:, :1])
        kept = scale_of(self._estimate(at_end, torch.zeros_like(at_end), mask)[0][real], plain[real], real[real])
        share, spread = float(len(scores) / real.sum()), float(advantages[real].std(correction=0))
        whitened = 1.0 if not self.settings.whiten_advantages else 1 / spread if spread > 0 else None
        self.note_scale(None if kept is None or whitened is None else Scale(kept.value * whitened * share, kept.weight), share)
        meter.update(reward_scale=self.reward_scale, average_scale=self.kl_scale)

    def _accumulate(self, experience: _Experience, totals: Totals, meter: Meter) -> None:
        """Of one micro-batch."""
        rollout, settings = experience.sampled.rollout, self.settings
        hidden, mask = hard_hidden(self.policy, rollout), rollout.mask
        found, values = self.statistics(experience.sampled, hidden), self.values(hidden)
        loss, metrics = ppo_clip_loss(found.logprobs, experience.old_logprobs, experience.advantages, mask, cliprange=settings.cliprange)
        value = value_loss(values, experience.returns, mask, old_values=experience.old_values, cliprange=settings.value_cliprange)
        entropy = torch.where(mask, found.entropy, 0.0).sum() / rollout.tokens
        meter.update(rollout.tokens, **metrics, policy_loss=loss.detach(), value_loss=value.detach())
        means = loss + settings.vf_coef * value - settings.entropy_coef * entropy
        self.backward(means * (rollout.tokens / totals.tokens), self.kl_loss(found, rollout, totals))


def pad_columns(tensor: Tensor, width: int) -> Tensor:
    """[b, t] -> [b, width], zeros on the right: micro-batches may have ended at different lengths."""
    return nn.functional.pad(tensor, (0, width - tensor.shape[1]))


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant."""
    variance = float(returns.var(correction=0))
    return 1.0 - float((returns - values).var(correction=0)) / variance if variance > 0 else float("nan")
