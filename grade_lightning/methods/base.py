"""What every method shares: prompts in, rollouts, one update, measurements out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.evaluation.evaluator import EvaluatedPrompt, JudgeFunction, evaluate_batch, summarise
from grade_lightning.methods.choices import CHOICES, check_choices
from grade_lightning.methods.distributed import gather_objects, my_rows, sum_gradients, sum_over_processes, world
from grade_lightning.methods.gradients import clip_and_measure
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.classifier import Reward
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import Relaxation, sample
from grade_lightning.rollout.types import Rollout, RolloutSettings


@dataclass(frozen=True)
class Shared:
    """What the run gives to every method, whichever it is.

    Attributes:
        policy, reward: share one frozen base.
        rollout: how completions are sampled.
        seed: of the run: prompt order, noise, dropout.
        evaluation_seed: of evaluation noise.
        optimizer: of the LoRA weights, ``adamw`` with ``lr``, ``betas`` and ``weight_decay``, or ``sgd`` with ``lr`` and no momentum:
            clipped to a ``max_grad_norm`` below any gradient's, its steps are ``lr * max_grad_norm`` long whatever the gradient.
        max_grad_norm: clip the global gradient norm; None = never.
        lr_decay_steps: the learning rate falls linearly to zero over so many policy steps; None = it stays.
        grad_accumulation: micro-batches an effective batch is split into; changes memory, not the update.
        kl_coef: beta of eq. 16.
        kl_reduction: ``token_mean`` (per real token of the effective batch) or ``sequence`` (sum over a completion, mean over
            completions: eq. 16 read literally).
        kl_in: where the KL enters: ``loss``, ``reward`` (policy gradients only) or ``none``; it is measured all the same.
        kl_estimator: ``exact``, or from the sampled tokens ``k1``, ``k2``, ``k3`` or ``k1_mean``, the mean of k1 over a completion
            (policy gradients only).
        kl_alignment: ``shifted`` also measures ``kl_shifted``, policy logits at t against reference logits at t + 1.
        logprobs: ``matched`` or ``full``, see :func:`grade_lightning.chain.logprobs.token_statistics`.
        dropout_in_rollouts: LoRA dropout acts while sampling as well as in the gradient pass.
        evaluation_rollout: how evaluation samples; as training if None.
        judge: P(positive) of texts by a model that no reward saw; part of the test's details.
    """

    policy: Policy
    reward: Reward
    rollout: RolloutSettings
    seed: int
    evaluation_seed: int = 0
    optimizer: str = "adamw"
    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    lr_decay_steps: int | None = None
    grad_accumulation: int = 1
    kl_coef: float = 0.1
    kl_reduction: str = "token_mean"
    kl_in: str = "loss"
    kl_estimator: str = "exact"
    kl_alignment: str = "correct"
    logprobs: str = "matched"
    dropout_in_rollouts: bool = False
    evaluation_rollout: RolloutSettings | None = None
    judge: JudgeFunction | None = None

    @property
    def kl_in_loss(self) -> float:
        """beta where the KL is part of the loss, else 0."""
        return self.kl_coef if self.kl_in == "loss" else 0.0

    def check(self) -> None:
        """Raise ValueError where settings contradict each other."""
        self.rollout.check(self.policy.vocab_size)
        if self.reward.vocab_size != self.policy.vocab_size:
            raise ValueError(
                f"the reward reads a vocabulary of {self.reward.vocab_size:,} tokens and the policy writes one of "
                f"{self.policy.vocab_size:,}: both must come from the same base model"
            )
        if self.evaluation_rollout is not None:
            self.evaluation_rollout.check(self.policy.vocab_size)
        check_choices(**{name: getattr(self, name) for name in CHOICES})
        if self.grad_accumulation < 1:
            raise ValueError(f"hardware.grad_accumulation must be at least 1, got {self.grad_accumulation}")
        if self.lr_decay_steps is not None and self.lr_decay_steps < 1:
            raise ValueError(f"optimizer.lr_decay_steps must be at least 1 or null, got {self.lr_decay_steps}")

    def lr_factor(self, step: int) -> float:
        """What every learning rate is multiplied by at this policy step, from 1."""
        return 1.0 if self.lr_decay_steps is None else max(0.0, 1.0 - (step - 1) / self.lr_decay_steps)


@dataclass(frozen=True)
class Totals:
    """Normalisers of one update, over the whole effective batch, all processes together."""

    samples: int
    tokens: int

    def kl_weight(self, reduction: str) -> float:
        """What the sum of per-token KL is multiplied by."""
        return 1.0 / (self.tokens if reduction == "token_mean" else self.samples)


class Method(L.LightningModule, ABC):
    """Base of all methods.

    One ``training_step`` is one policy step: one effective batch, however many micro-batches or optimizer steps it takes.
    Subclasses implement :meth:`update`; rollouts, gradients' statistics and evaluation live here.

    Args:
        shared: see :class:`Shared`.
        completions_per_prompt: how often each prompt stands in an effective batch.
    """

    def __init__(self, shared: Shared, *, completions_per_prompt: int = 1):
        super().__init__()
        shared.check()
        self.automatic_optimization = False
        self.strict_loading = False
        self.shared, self.policy = shared, shared.policy
        self.reward = shared.reward
        self.completions_per_prompt = completions_per_prompt
        self.evaluate_initial = False  # test the reference instead of the policy
        self.step_metrics: dict[str, float] = {}
        self.evaluated: list[EvaluatedPrompt] = []
        self.last_evaluation: dict[str, Any] = {}

    # -- training ------------------------------------------------------------------------------------------------------

    @abstractmethod
    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """Change the weights once, from the micro-batches of one effective batch.

        Args:
            rollouts: the micro-batches; together the whole effective batch.
            totals: normalisers over all of them.
            meter: takes what is measured.
            step: policy step, from 1.
        """

    def relaxation(self, step: int) -> Relaxation | None:
        """How relaxed tokens are fed forward while sampling; None = hard tokens."""
        return None

    def observe(self, measured: dict[str, float]) -> None:
        """Called with what a policy step measured, for schedules that follow a measurement."""

    def schedule_values(self, step: int) -> dict[str, float]:
        """Scheduled quantities of this step, for the record."""
        return {}

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        step, meter = batch.step, Meter(self.device)
        batch = batch.repeat(self.completions_per_prompt)
        rollouts = self.sample_effective_batch(batch)
        totals = Totals(len(batch), int(sum_over_processes(sum(rollout.tokens for rollout in rollouts))))
        eos = torch.tensor(self.policy.eos_ids, device=self.device)
        for rollout in rollouts:
            ended = (torch.isin(rollout.completion_ids, eos) & rollout.mask).any(dim=1)
            meter.update(len(rollout), length=rollout.tokens / len(rollout), eos_rate=ended.float().mean())
        self.update(rollouts, totals, meter, step)
        measured = meter.compute()
        measured["loss"] = -measured["reward"] + self.shared.kl_coef * (self.shared.kl_in != "none") * self._kl_per(measured, totals)
        scheduled = self.schedule_values(step)
        self.observe(measured)
        self.step_metrics = {**measured, "tokens": totals.tokens, "lr": self.shared.lr * self.shared.lr_factor(step), **scheduled}
        shown: dict[str, Any] = {name: self.step_metrics[name] for name in ("reward", "kl", "tau") if name in self.step_metrics}
        self.log_dict(shown, prog_bar=True, logger=False)

    def _kl_per(self, measured: dict[str, float], totals: Totals) -> float:
        return measured["kl"] * totals.tokens * totals.kl_weight(self.shared.kl_reduction)

    def sample_effective_batch(self, batch: PromptBatch) -> list[Rollout]:
        """This process' part of the effective batch as ``grad_accumulation`` micro-batches.

        Noise comes from (seed, step) for the whole effective batch and is cut to fit.
        """
        shared, settings = self.shared, self.shared.rollout
        noise = training_noise(shared.seed, batch.step, len(batch), settings.max_new_tokens, settings.top_k)
        mine = my_rows(len(batch))
        batch, noise = batch[mine], noise[mine]
        size = self.micro_batch_size(len(batch))
        return [self._sample(batch[i : i + size], noise[i : i + size]) for i in range(0, len(batch), size)]

    def micro_batch_size(self, rows: int) -> int:
        """Rows of a micro-batch of an effective batch (of this process) of so many rows."""
        return -(-rows // self.shared.grad_accumulation)

    def _sample(self, batch: PromptBatch, noise: Tensor) -> Rollout:
        shared, soft = self.shared, self.relaxation(batch.step)
        with self.policy.dropout(shared.seed, batch.step, batch.rows) if shared.dropout_in_rollouts else nullcontext():
            return sample(self.policy, batch, noise, shared.rollout, soft=soft)

    def apply_gradients(self, meter: Meter, step: int) -> None:
        """Clip, measure and make one optimizer step at this policy step's learning rate."""
        optimizer = self.optimizers()
        sum_gradients(weight for group in optimizer.param_groups for weight in group["params"])  # type: ignore[union-attr]
        meter.update(**clip_and_measure(self.policy.trainable().values(), self.shared.max_grad_norm))
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.shared.lr_factor(step)
        for group in optimizer.param_groups[1:]:  # type: ignore[union-attr]
            clip_and_measure(group["params"], self.shared.max_grad_norm)  # a value head is clipped on its own
        optimizer.step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        shared = self.shared
        weights = list(self.policy.trainable().values())
        if shared.optimizer == "sgd":
            return torch.optim.SGD(weights, lr=shared.lr)
        return torch.optim.AdamW(weights, lr=shared.lr, betas=shared.betas, weight_decay=shared.weight_decay)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def _evaluation_step(self, batch: PromptBatch, batch_idx: int, *, detailed: bool = False) -> None:
        rank, processes = world()
        if batch_idx % processes != rank:
            return
        shared = self.shared
        # Prompt and completion are evaluated together, whatever training scores, so that runs stay comparable.
        settings, reward = shared.evaluation_rollout or shared.rollout, self.reward.scoped("full")
        self.evaluated += evaluate_batch(
            self.policy, reward, batch, settings, seed=shared.evaluation_seed, initial=self.evaluate_initial,
            detailed=detailed, judge=shared.judge,
        )  # fmt: skip

    def _evaluation_end(self) -> None:
        self.evaluated = sorted((p for part in gather_objects(self.evaluated) for p in part), key=lambda prompt: prompt.row)
        self.last_evaluation = summarise(self.evaluated)

    def on_validation_epoch_start(self) -> None:
        self.evaluated = []

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluation_step(batch, batch_idx)

    def on_validation_epoch_end(self) -> None:
        self._evaluation_end()

    def on_test_epoch_start(self) -> None:
        self.evaluated = []

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluation_step(batch, batch_idx, detailed=True)

    def on_test_epoch_end(self) -> None:
        self._evaluation_end()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Trainable weights and the method's own buffers: the frozen base never goes into a checkpoint."""
        kept = {name for name, weight in self.named_parameters() if weight.requires_grad} | set(self._buffers)
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in kept}


Schedule = Callable[[int], float]
