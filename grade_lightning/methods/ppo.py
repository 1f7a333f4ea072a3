"""PPO with a value head."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from grade_lightning.chain.parallel import hard_hidden
from grade_lightning.estimators import gae, ppo_clip_loss, value_loss, whiten
from grade_lightning.methods.base import Shared, Totals
from grade_lightning.methods.distributed import gather_rows, my_rows
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import PolicyGradient, Sampled
from grade_lightning.rollout.types import Rollout

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class PPOSettings:
    """The paper's by default.

    Attributes:
        epochs: updates from one batch of rollouts.
        cliprange: of the probability ratio.
        gamma, lam: of :func:`gae`.
        vf_coef, entropy_coef: weights of value loss and entropy.
        value_lr: learning rate of the value head; None = the policy's.
        value_cliprange: see :func:`value_loss`.
        whiten_advantages: zero mean and unit variance over the real tokens of the effective batch.
        target_kl: no further update once the approximate KL to the old policy exceeds it; None = never.
        gae_axis: ``time``; ``batch`` runs the recursion over the rows of the batch instead (an error to study).
        terminal_reward: ``last_token``: on the last real token; ``last_column``: on the last column, padding included, so that a
            row that ended early gets none.
        value_head_dtype: ``fp32``, starting at 0; or ``bf16``, starting at random, where small updates are lost to rounding.
    """

    epochs: int = 4
    cliprange: float = 0.2
    gamma: float = 0.99
    lam: float = 0.95
    vf_coef: float = 0.5
    entropy_coef: float = 0.01
    value_lr: float | None = None
    value_cliprange: float | None = None
    whiten_advantages: bool = True
    target_kl: float | None = None
    gae_axis: str = "time"
    terminal_reward: str = "last_token"
    value_head_dtype: str = "fp32"

    def check(self, optimizer: str) -> None:
        """Raise ValueError for settings that cannot work."""
        if optimizer != "adamw":
            raise ValueError(
                f"optimizer.name={optimizer} would train PPO's value head with the policy's clipped steps, that is not at all: use adamw"
            )
        choices = {"gae_axis": ("time", "batch"), "terminal_reward": ("last_token", "last_column"), "value_head_dtype": tuple(DTYPES)}
        for name, options in choices.items():
            if getattr(self, name) not in options:
                raise ValueError(f"protocol.{name}={getattr(self, name)} is unknown: use {' or '.join(options)}")
        if self.epochs < 1:
            raise ValueError(f"method.epochs must be at least 1, got {self.epochs}")


@dataclass
class _Experience:
    """A micro-batch with what is fixed over the epochs, all [B, T]; ``rewards`` without the terminal one."""

    sampled: Sampled
    old_logprobs: Tensor
    old_values: Tensor
    rewards: Tensor
    advantages: Tensor = field(init=False)
    returns: Tensor = field(init=False)


class PPO(PolicyGradient):
    """Several clipped updates from each batch of rollouts (eq. 6); values read detached final hidden states.

    Args:
        shared: see :class:`Shared`.
        settings: fields of :class:`PPOSettings`.
    """

    def __init__(self, shared: Shared, **settings: Any):
        super().__init__(shared)
        self.settings = PPOSettings(**settings)
        self.settings.check(shared.optimizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(shared.seed)
            self.value_head = nn.Linear(self.policy.embedding.shape[1], 1).to(self.policy.device)
        if self.settings.value_head_dtype == "fp32":  # a first value of 0 everywhere
            nn.init.zeros_(self.value_head.weight)
            nn.init.zeros_(self.value_head.bias)
        self.value_head.to(DTYPES[self.settings.value_head_dtype])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        optimizer = super().configure_optimizers()
        optimizer.add_param_group({"params": list(self.value_head.parameters()), "lr": self.settings.value_lr or self.shared.lr})
        return optimizer

    def values(self, hidden: Tensor) -> Tensor:
        """[B, T, d] -> [B, T], in fp32 (fp64 stays fp64) whatever the base and the head compute in."""
        values = self.value_head(hidden.detach().to(self.value_head.weight.dtype)).squeeze(-1)
        return values.double() if hidden.dtype == torch.float64 else values.float()

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        batch = [self._experience(self.read(rollout, meter), totals, meter) for rollout in rollouts]
        self._credit(batch, meter)
        updates = 0
        for _ in range(self.settings.epochs):
            self.optimizers().zero_grad()  # type: ignore[union-attr]
            epoch = Meter(self.device)
            for experience in batch:
                with self.policy.dropout(self.shared.seed, step, experience.sampled.rollout.prompt.rows):
                    self._accumulate(experience, totals, epoch)
            measured = epoch.compute()
            if self.settings.target_kl is not None and measured["approx_kl"] > self.settings.target_kl:
                break
            meter.update(**measured)
            self.apply_gradients(meter, step)
            updates += 1
        meter.update(updates=updates)

    @torch.no_grad()
    def _experience(self, sampled: Sampled, totals: Totals, meter: Meter) -> _Experience:
        """Old log-probabilities and values of a micro-batch; its advantages come with the whole batch."""
        rollout, hidden = sampled.rollout, hard_hidden(self.policy, sampled.rollout)
        found = self.statistics(sampled, hidden)
        self.measure(sampled, found, meter)
        return _Experience(sampled, found.logprobs, self.values(hidden), -self.kl_penalty(found, rollout, totals))

    def _credit(self, batch: list[_Experience], meter: Meter) -> None:
        """Advantages and returns over the whole effective batch, all processes together."""
        width = self.shared.rollout.max_new_tokens
        columns = [[e.rewards, e.old_values, e.sampled.rollout.mask] for e in batch]
        rewards, values, mask = (gather_rows(torch.cat([pad_columns(t, width) for t in c])) for c in zip(*columns, strict=True))
        scores = gather_rows(torch.cat([e.sampled.scores for e in batch])).to(rewards.dtype)
        lengths = mask.sum(dim=1)
        last = lengths if self.settings.terminal_reward == "last_token" else lengths.max().expand_as(lengths)
        rewards = rewards.scatter_add(1, last.unsqueeze(1) - 1, scores.unsqueeze(1))
        if self.settings.gae_axis == "time":
            advantages, returns = gae(rewards, values, mask, gamma=self.settings.gamma, lam=self.settings.lam)
        else:
            everywhere = torch.ones_like(mask.T)
            advantages, returns = gae(rewards.T, values.T, everywhere, gamma=self.settings.gamma, lam=self.settings.lam)
            advantages, returns = advantages.T, returns.T
        real = mask.bool()
        meter.update(explained_variance=explained_variance(values[real], returns[real]))
        if self.settings.whiten_advantages:
            advantages = whiten(advantages, mask)
        mine, sizes = my_rows(len(mask)), [len(e.sampled.rollout) for e in batch]
        for experience, a, r in zip(batch, advantages[mine].split(sizes), returns[mine].split(sizes), strict=True):
            columns_here = experience.old_values.shape[1]
            experience.advantages, experience.returns = a[:, :columns_here], r[:, :columns_here]

    def _accumulate(self, experience: _Experience, totals: Totals, meter: Meter) -> None:
        """Add the gradient of one micro-batch."""
        rollout, settings = experience.sampled.rollout, self.settings
        hidden, mask = hard_hidden(self.policy, rollout), rollout.mask
        found, values = self.statistics(experience.sampled, hidden), self.values(hidden)
        loss, metrics = ppo_clip_loss(found.logprobs, experience.old_logprobs, experience.advantages, mask, cliprange=settings.cliprange)
        value = value_loss(values, experience.returns, mask, old_values=experience.old_values, cliprange=settings.value_cliprange)
        entropy = torch.where(mask, found.entropy, 0.0).sum() / rollout.tokens
        meter.update(rollout.tokens, **metrics, policy_loss=loss.detach(), value_loss=value.detach())
        means = loss + settings.vf_coef * value - settings.entropy_coef * entropy
        (means * (rollout.tokens / totals.tokens) + self.kl_loss(found, rollout, totals)).backward()


def pad_columns(tensor: Tensor, width: int) -> Tensor:
    """[b, t] -> [b, width], zeros on the right: micro-batches may have ended at different lengths."""
    return nn.functional.pad(tensor, (0, width - tensor.shape[1]))


def explained_variance(values: Tensor, returns: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant."""
    variance = float(returns.var(correction=0))
    return 1.0 - float((returns - values).var(correction=0)) / variance if variance > 0 else float("nan")
