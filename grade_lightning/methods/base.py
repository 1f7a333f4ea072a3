"""What every method shares: prompts in, rollouts, one update, measurements out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning as L
import torch

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.evaluation.evaluator import EvaluatedPrompt, evaluate_batch, summarise
from grade_lightning.methods.gradients import clip_and_measure
from grade_lightning.methods.meter import Meter
from grade_lightning.models.policy import Policy
from grade_lightning.models.reward import Reward
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import Relaxation, sample
from grade_lightning.rollout.types import Rollout, RolloutSettings

KL_REDUCTIONS = ("token_mean", "sequence")


def check_kl_reduction(reduction: str) -> None:
    """Raise ValueError for an unknown reduction."""
    if reduction not in KL_REDUCTIONS:
        raise ValueError(f"protocol.kl_reduction={reduction} is unknown: use one of {', '.join(KL_REDUCTIONS)}")


@dataclass(frozen=True)
class Shared:
    """What the run gives to every method, whichever it is.

    Attributes:
        policy, reward: share one frozen base.
        rollout: how completions are sampled.
        seed: of the run: prompt order, noise, dropout.
        evaluation_seed: of evaluation noise.
        lr, betas, weight_decay: AdamW on the LoRA weights.
        max_grad_norm: clip the global gradient norm; None = never.
        lr_decay_steps: the learning rate falls linearly to zero over so many policy steps; None = it stays.
        grad_accumulation: micro-batches an effective batch is split into; changes memory, not the update.
        kl_coef: beta of eq. 16.
        kl_reduction: ``token_mean`` (per real token of the effective batch) or ``sequence`` (sum over a completion, mean over
            completions: eq. 16 read literally).
    """

    policy: Policy
    reward: Reward
    rollout: RolloutSettings
    seed: int
    evaluation_seed: int = 0
    lr: float = 1e-5
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.01
    max_grad_norm: float | None = 1.0
    lr_decay_steps: int | None = None
    grad_accumulation: int = 1
    kl_coef: float = 0.1
    kl_reduction: str = "token_mean"

    def check(self) -> None:
        """Raise ValueError where settings contradict each other."""
        self.rollout.check(self.policy.vocab_size)
        if self.reward.vocab_size != self.policy.vocab_size:
            raise ValueError(
                f"the reward reads a vocabulary of {self.reward.vocab_size:,} tokens and the policy writes one of "
                f"{self.policy.vocab_size:,}: both must come from the same base model"
            )
        check_kl_reduction(self.kl_reduction)
        if self.grad_accumulation < 1:
            raise ValueError(f"hardware.grad_accumulation must be at least 1, got {self.grad_accumulation}")
        if self.lr_decay_steps is not None and self.lr_decay_steps < 1:
            raise ValueError(f"optimizer.lr_decay_steps must be at least 1 or null, got {self.lr_decay_steps}")

    def lr_factor(self, step: int) -> float:
        """What every learning rate is multiplied by at this policy step, from 1."""
        return 1.0 if self.lr_decay_steps is None else max(0.0, 1.0 - (step - 1) / self.lr_decay_steps)


@dataclass(frozen=True)
class Totals:
    """Normalisers of one update, over the whole effective batch."""

    samples: int
    tokens: int

    def kl_weight(self, reduction: str) -> float:
        """What the sum of per-token KL is multiplied by."""
        return 1.0 / (self.tokens if reduction == "token_mean" else self.samples)


class Method(L.LightningModule):
    """Base of all methods.

    One ``training_step`` is one policy step: one effective batch, however many micro-batches or optimizer steps it takes.
    Subclasses implement :meth:`update`; rollouts, rewards, gradients' statistics and evaluation live here.
    """

    def __init__(self, shared: Shared):
        super().__init__()
        shared.check()
        self.automatic_optimization = False
        self.strict_loading = False
        self.shared, self.policy = shared, shared.policy
        self.reward = shared.reward
        self.evaluate_initial = False  # test the reference instead of the policy
        self.step_metrics: dict[str, float] = {}
        self.evaluated: list[EvaluatedPrompt] = []
        self.last_evaluation: dict[str, Any] = {}

    # -- training ------------------------------------------------------------------------------------------------------

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """Change the weights once, from the micro-batches of one effective batch.

        Args:
            rollouts: the micro-batches; together the whole effective batch.
            totals: normalisers over all of them.
            meter: takes what is measured.
            step: policy step, from 1.
        """
        raise NotImplementedError

    def relaxation(self, step: int) -> Relaxation | None:
        """How relaxed tokens are fed forward while sampling; None = hard tokens."""
        return None

    def schedule_values(self, step: int) -> dict[str, float]:
        """Scheduled quantities of this step, for the record."""
        return {}

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        step, meter = batch.step, Meter(self.device)
        rollouts = self.sample_effective_batch(batch)
        totals = Totals(len(batch), sum(rollout.tokens for rollout in rollouts))
        ended = [torch.isin(r.completion_ids, torch.tensor(self.policy.eos_ids, device=r.mask.device)) & r.mask for r in rollouts]
        meter.update(length=totals.tokens / totals.samples, eos_rate=sum(int(e.any(dim=1).sum()) for e in ended) / totals.samples)
        self.update(rollouts, totals, meter, step)
        measured = meter.compute()
        measured["loss"] = -measured["reward"] + self.shared.kl_coef * self._kl_per(measured, totals)
        self.step_metrics = {**measured, "tokens": totals.tokens, "lr": self.shared.lr * self.shared.lr_factor(step), **self.schedule_values(step)}
        shown: dict[str, Any] = {name: self.step_metrics[name] for name in ("reward", "kl", "tau") if name in self.step_metrics}
        self.log_dict(shown, prog_bar=True, logger=False)

    def _kl_per(self, measured: dict[str, float], totals: Totals) -> float:
        return measured["kl"] * totals.tokens * totals.kl_weight(self.shared.kl_reduction)

    def sample_effective_batch(self, batch: PromptBatch) -> list[Rollout]:
        """The effective batch as ``grad_accumulation`` micro-batches, with noise from (seed, step) cut to fit."""
        shared, settings = self.shared, self.shared.rollout
        noise = training_noise(shared.seed, batch.step, len(batch), settings.max_new_tokens, settings.top_k)
        size = -(-len(batch) // shared.grad_accumulation)
        starts = range(0, len(batch), size)
        soft = self.relaxation(batch.step)
        return [sample(self.policy, batch[i : i + size], noise[i : i + size], settings, soft=soft) for i in starts]

    def apply_gradients(self, meter: Meter, step: int) -> None:
        """Clip, measure and make one optimizer step at this policy step's learning rate."""
        optimizer = self.optimizers()
        meter.update(**clip_and_measure(self.policy.trainable().values(), self.shared.max_grad_norm))
        for group in optimizer.param_groups:  # type: ignore[union-attr]
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * self.shared.lr_factor(step)
        optimizer.step()  # type: ignore[union-attr]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        shared = self.shared
        weights = list(self.policy.trainable().values())
        return torch.optim.AdamW(weights, lr=shared.lr, betas=shared.betas, weight_decay=shared.weight_decay)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def _evaluation_step(self, batch: PromptBatch) -> None:
        shared = self.shared
        self.evaluated += evaluate_batch(
            self.policy, self.reward, batch, shared.rollout, seed=shared.evaluation_seed, initial=self.evaluate_initial
        )

    def _evaluation_end(self) -> None:
        self.evaluated.sort(key=lambda prompt: prompt.row)
        self.last_evaluation = summarise(self.evaluated)

    def on_validation_epoch_start(self) -> None:
        self.evaluated = []

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluation_step(batch)

    def on_validation_epoch_end(self) -> None:
        self._evaluation_end()

    def on_test_epoch_start(self) -> None:
        self.evaluated = []

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluation_step(batch)

    def on_test_epoch_end(self) -> None:
        self._evaluation_end()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Trainable weights only: the frozen base never goes into a checkpoint."""
        trainable = {name for name, weight in self.named_parameters() if weight.requires_grad}
        return {name: value for name, value in super().state_dict(*args, **kwargs).items() if name in trainable}


Schedule = Callable[[int], float]
