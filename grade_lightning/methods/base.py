"""What every method shares: it adds the gradient of given rollouts to the weights, and knows nothing of a trainer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from torch import Tensor, nn

from grade_lightning.methods.gradients import Apart
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward, Scored, is_probability
from grade_lightning.rollout.sampling import Relaxation
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.method import MethodSettings
from grade_lightning.settings.rollout import ProtocolSettings, RolloutSettings
from grade_lightning.settings.rules import NO_MIXTURES, NOT_DIFFERENTIABLE, kl_faults

Schedule = Callable[[int], float]


@dataclass(frozen=True)
class Context:
    """What a run gives to every method, whichever it is.

    Attributes:
        policy: base LM + LoRA; with its adapters disabled it is the reference.
        reward: what is maximised.
        rollout: how completions are sampled.
        seed: of noise and dropout.
        kl_coef: beta of eq. 16.
        protocol: where the KL enters and how it is estimated; which log-probabilities are used.
    """

    policy: Policy
    reward: Reward
    rollout: RolloutSettings = field(default_factory=RolloutSettings)
    seed: int = 0
    kl_coef: float = 0.1
    protocol: ProtocolSettings = field(default_factory=ProtocolSettings)

    @property
    def kl_in_loss(self) -> float:
        """beta where the KL is part of the loss, else 0."""
        return self.kl_coef if self.protocol.kl_in == "loss" else 0.0

    def for_policy_gradient(self) -> Context:
        """The same for a policy gradient beside a relaxed one: it knows no shifted KL, which is measured and no part of a gradient."""
        return replace(self, protocol=replace(self.protocol, kl_alignment="correct"))

    def check(self) -> None:
        """Raise ValueError where the parts do not fit each other."""
        self.rollout.check(self.policy.vocab_size)
        if self.reward.vocabulary not in (None, self.policy.vocab_size):
            raise ValueError(
                f"the reward reads a vocabulary of {self.reward.vocabulary:,} tokens and the policy writes one of "
                f"{self.policy.vocab_size:,}: both must come from the same base model"
            )


@dataclass(frozen=True)
class Totals:
    """Normalisers of one update, over the whole effective batch, all processes together."""

    samples: int
    tokens: int

    def kl_weight(self, reduction: str) -> float:
        """What the sum of per-token KL is multiplied by."""
        return 1.0 / (self.tokens if reduction == "token_mean" else self.samples)


def score_measurements(reward: Reward, found: Scored) -> dict[str, Tensor | float]:
    """What is logged of a micro-batch's scores: their mean and that of each part, p (1 - p) only where they are probabilities, and
    for a reward that reads texts the seconds that one took."""
    scores = found.scores
    measured: dict[str, Tensor | float] = {"reward": scores.mean(), **{f"reward_{n}": part.mean() for n, part in found.parts.items()}}
    if is_probability(reward):
        measured["reward_uncertainty"] = (scores * (1 - scores)).mean()
    if reward.vocabulary is None:
        measured["reward_seconds"] = found.seconds / len(scores)
    return measured


Apply = Callable[[Meter], None]


class Method(nn.Module, ABC):
    """Base of all methods.

    Subclasses implement :meth:`accumulate`.  A method's own weights and buffers are part of its state dictionary; policy and reward
    are not.

    Args:
        context: what the run gives to every method.
        settings: of this method; made from ``values`` if None.
        **values: fields of ``Settings``.
    """

    Settings: ClassVar[type[MethodSettings]] = MethodSettings

    def __init__(self, context: Context, settings: Any = None, **values: Any):
        super().__init__()
        context.check()
        self.context = context
        self.settings: Any = self.Settings(**values) if settings is None else settings
        self.apart: Apart | None = None  # set while gradients of reward and KL are wanted apart
        self._check_reward(context.reward)
        for key, reason in kl_faults(context.protocol, relaxed=self.settings.relaxed):
            raise ValueError(f"{key}: {reason}")

    def _check_reward(self, reward: Reward) -> None:
        """Raise ValueError for a reward without the gradient that the method needs."""
        if self.settings.needs_gradient and not reward.differentiable:
            raise ValueError(NOT_DIFFERENTIABLE)
        if self.settings.feeds_mixtures and not reward.soft:
            raise ValueError(NO_MIXTURES)

    @property
    def policy(self) -> Policy:
        """What the gradient is of."""
        return self.context.policy

    @property
    def reward(self) -> Reward:
        """What is maximised."""
        return self.context.reward

    @property
    def completions_per_prompt(self) -> int:
        """How often each prompt stands in an effective batch."""
        return self.settings.completions_per_prompt

    @abstractmethod
    def accumulate(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """Add this method's gradient of the loss to ``.grad`` of the policy's trainable weights (and of its own).

        Args:
            rollouts: micro-batches; a prompt's completions stand in a row in one effective batch.
            totals: normalisers over the whole effective batch, of which these rollouts may be a part.
            meter: takes what is measured.
            step: policy step, from 1.
        """

    def accumulate_plainly(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """The same without anything that the method learns from a batch; arguments as those of :meth:`accumulate`."""
        self.accumulate(rollouts, totals, meter, step)

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int, apply: Apply) -> None:
        """Change the weights from one effective batch: one gradient, applied once, unless a method says otherwise.

        Args:
            apply: clips, measures and applies the gradient in ``.grad`` and takes it away.
        """
        self.accumulate(rollouts, totals, meter, step)
        apply(meter)

    def backward(self, reward: Tensor, kl: Tensor) -> None:
        """Add the gradient of two losses, apart where that is wanted."""
        if self.apart is None:
            (reward + kl).backward()
            return
        with self.apart.whole():
            (reward + kl).backward(retain_graph=True)
        with self.apart.kl_alone():
            if kl.requires_grad:
                kl.backward()

    def relaxation(self, step: int) -> Relaxation | None:
        """How relaxed tokens are fed forward while sampling; None = hard tokens."""
        return None

    def begin(self, reward: float | None) -> None:
        """Called before the first policy step with the mean validation reward of the initial policy, where it was measured."""

    def hold_baseline(self, value: float | None) -> None:
        """Set a baseline that follows rewards to this value, for gradients of single batches; None = as before the first reward."""

    def observe(self, measured: dict[str, float]) -> None:
        """Called with what a policy step measured, for schedules that follow a measurement."""

    def schedule_values(self, step: int) -> dict[str, float]:
        """Scheduled quantities of this step, for the record."""
        return {}

    def weight_groups(self, lr: float) -> list[dict[str, Any]]:
        """Weights of the method's own, as optimizer groups.

        Args:
            lr: learning rate of the policy.
        """
        return []

    def dropout(self, rollout: Rollout, step: int) -> AbstractContextManager[None]:
        """The policy's dropout in the gradient pass of a micro-batch."""
        return self.policy.dropout(self.context.seed, step, rollout.prompt.rows)
