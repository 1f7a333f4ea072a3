"""The one LightningModule: it samples, lets a method add its gradient, steps, and evaluates."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.distributed import gather_objects, my_rows, parts_of_each, sum_gradients, sum_over_processes, sum_tensor, world
from grade_lightning.evaluation.evaluator import EvaluatedPrompt, evaluate_batch, summarise
from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.gradients import Apart
from grade_lightning.methods.meter import Meter
from grade_lightning.rewards.base import Learning, Reward, evaluation_reward
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.method import MethodSettings
from grade_lightning.settings.rollout import RolloutSettings
from grade_lightning.settings.run import OptimizerSettings
from grade_lightning.training.optimizer import clip_and_measure, optimizer_of

LEARNED = "_scored_by."  # of a reward that learns


@dataclass(frozen=True)
class Plan:
    """How a method is trained and evaluated, whichever it is.

    Attributes:
        optimizer: of the adapters.
        grad_accumulation: micro-batches an effective batch is split into; changes memory, not the update.
        evaluation_seed: of evaluation noise.
        evaluation_rollout: how evaluation samples; as training if None.
        judges: rewards by name that are measured at validation and test and never optimised.
        parts_every: policy steps between measurements of the reward's and the KL's gradient apart, the first step included; 0 = never.
        evaluation_scope: what evaluation scores: as the ``reward`` does, or ``full`` or ``completion``.
        sharded: each of several processes holds a part of the policy's frozen layers.
    """

    optimizer: OptimizerSettings = field(default_factory=lambda: OptimizerSettings(lr=1e-5))
    grad_accumulation: int = 1
    evaluation_seed: int = 0
    evaluation_rollout: RolloutSettings | None = None
    judges: Mapping[str, Reward] = field(default_factory=dict)
    evaluation_scope: str = "reward"
    parts_every: int = 0
    sharded: bool = False


class MethodModule(L.LightningModule):
    """Trains any method.

    One ``training_step`` is one policy step: one effective batch, however many micro-batches or optimizer steps it takes.

    Args:
        method: adds the gradients.
        plan: optimizer, accumulation and evaluation; the defaults if None.
    """

    def __init__(self, method: Method, plan: Plan | None = None):
        super().__init__()
        self.automatic_optimization = False
        self.strict_loading = False
        self.method, self.policy, self.plan = method, method.policy, plan or Plan()
        self._scored_by = method.reward if isinstance(method.reward, nn.Module) else None  # moves to a device with this module
        if self.plan.evaluation_rollout is not None:
            self.plan.evaluation_rollout.check(self.policy.vocab_size)
        self.evaluate_initial = False  # test the reference instead of the policy
        self.step_metrics: dict[str, float] = {}
        self.evaluated: list[EvaluatedPrompt] = []
        self.last_evaluation: dict[str, Any] = {}

    @property
    def context(self) -> Context:
        return self.method.context

    # -- training ------------------------------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        self.method.begin(self.last_evaluation.get("reward_mean"))

    def training_step(self, batch: PromptBatch, batch_idx: int) -> None:
        step, meter = batch.step, Meter(self.device)
        batch = batch.repeat(self.method.completions_per_prompt)
        rollouts = self.sample_effective_batch(batch)
        totals = Totals(len(batch), int(sum_over_processes(sum(rollout.tokens for rollout in rollouts))))
        eos = torch.tensor(self.policy.eos_ids, device=self.device)
        for rollout in rollouts:
            ended = (torch.isin(rollout.completion_ids, eos) & rollout.mask).any(dim=1)
            meter.update(len(rollout), length=rollout.tokens / len(rollout), eos_rate=ended.float().mean())
        self.update(rollouts, totals, meter, step)
        measured = meter.compute()
        if isinstance(self.method.reward, Learning):
            measured |= self.method.reward.learn()
        measured["loss"] = -measured["reward"] + self._kl_term(measured["kl"], totals)
        optimizer = self.plan.optimizer
        scheduled = {"lr": optimizer.lr * optimizer.factor(step), **self.method.schedule_values(step)}
        self.method.observe(measured)  # after what this step was made with is noted
        self.step_metrics = {**measured, "tokens": totals.tokens, **scheduled}
        shown: dict[str, Any] = {name: self.step_metrics[name] for name in ("reward", "kl", "tau") if name in self.step_metrics}
        self.log_dict(shown, prog_bar=True, logger=False)

    def _kl_term(self, kl_per_token: float, totals: Totals) -> float:
        """beta KL as the objective reduces it, wherever it enters; 0 where it does not."""
        context = self.context
        if context.protocol.kl_in == "none":
            return 0.0
        return context.kl_coef * kl_per_token * totals.tokens * totals.kl_weight(context.protocol.kl_reduction)

    def sample_effective_batch(self, batch: PromptBatch) -> list[Rollout]:
        """This process' part of the effective batch as micro-batches.

        Noise comes from (seed, step) for the whole effective batch and is cut to fit.
        """
        settings = self.context.rollout
        noise = training_noise(self.context.seed, batch.step, len(batch), settings.max_new_tokens, settings.top_k)
        mine = my_rows(len(batch))
        batch, noise = batch[mine], noise[mine]
        size = self._micro_batch_size(len(batch))
        return [self._sample(batch[i : i + size], noise[i : i + size]) for i in range(0, len(batch), size)]

    def _micro_batch_size(self, rows: int) -> int:
        """Rows of a micro-batch: at most the accumulation's, and none lies in two of the parts that the method cuts its batch into."""
        facts: MethodSettings = self.method.settings
        parts = parts_of_each(facts.chunks, world()[1])
        whole = parts * facts.completions_per_prompt
        if facts.chunks > 1 and rows % whole:
            raise ValueError(
                f"this method cuts its batch into {facts.chunks} parts: effective_batch_size={rows * world()[1]} must be a multiple of "
                f"{whole * world()[1]}"
            )
        most = -(-rows // self.plan.grad_accumulation)
        if facts.chunks == 1:
            return most
        part = rows // parts
        return next(size for size in range(min(most, part), 0, -1) if part % size == 0)

    def _sample(self, batch: PromptBatch, noise: Tensor) -> Rollout:
        context, soft = self.context, self.method.relaxation(batch.step)
        dropout = self.policy.dropout(context.seed, batch.step, batch.rows) if context.protocol.dropout_in_rollouts else nullcontext()
        with dropout:
            return sample(self.policy, batch, noise, context.rollout, soft=soft)

    def update(self, rollouts: list[Rollout], totals: Totals, meter: Meter, step: int) -> None:
        """Change the weights once, from the micro-batches of one effective batch."""
        optimizer, every = self.optimizers(), self.plan.parts_every
        optimizer.zero_grad()  # type: ignore[union-attr]
        if every and (step == 1 or step % every == 0):
            self.method.apart = Apart(self.policy.trainable().values())
        self.method.update(rollouts, totals, meter, step, lambda taken: self.apply_gradients(optimizer, taken, step))

    def apply_gradients(self, optimizer: Any, meter: Meter, step: int) -> None:
        """Clip, measure and make one optimizer step at this policy step's learning rate; the gradients are gone afterwards."""
        settings = self.plan.optimizer
        if self.method.apart is not None:  # of the first update of a step
            for name in ("reward", "kl"):
                meter.update(**{f"{name}_grad_norm": float(sum_tensor(getattr(self.method.apart, name)).norm())})
            self.method.apart = None
        sum_gradients(weight for group in optimizer.param_groups for weight in group["params"])
        meter.update(**clip_and_measure(self.policy.trainable().values(), settings.max_grad_norm))
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * settings.factor(step)
        for group in optimizer.param_groups[1:]:
            clip_and_measure(group["params"], settings.max_grad_norm)  # weights of the method's own are clipped on their own
        optimizer.step()
        optimizer.zero_grad()

    def configure_model(self) -> None:
        if self.plan.sharded:  # the process group is there by now
            self.policy.shard()
            parts = [name for name, weight in self.named_parameters() if isinstance(weight, DTensor)]
            DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(self, parts)  # Lightning makes the rest equal

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return optimizer_of(self.method, self.plan.optimizer)

    # -- evaluation ----------------------------------------------------------------------------------------------------

    def _evaluation_step(self, batch: PromptBatch, batch_idx: int, batches: list[Any], *, detailed: bool = False) -> None:
        rank, processes = world()
        mine = batch_idx % processes == rank
        # Where weights are shared out, a process without a batch left makes the passes of the others' last ones too.
        along = self.policy.sharded and batch_idx + 1 == sum(batches) and rank > batch_idx % processes
        if not (mine or along):
            return
        plan = self.plan
        settings = plan.evaluation_rollout or self.context.rollout
        reward = evaluation_reward(self.method.reward, plan.evaluation_scope)
        found = evaluate_batch(
            self.policy, reward, batch, settings, seed=plan.evaluation_seed, initial=self.evaluate_initial,
            detailed=detailed, judges=plan.judges,
        )  # fmt: skip
        self.evaluated += found if mine else []

    def _evaluation_end(self) -> None:
        self.evaluated = sorted((p for part in gather_objects(self.evaluated) for p in part), key=lambda prompt: prompt.row)
        self.last_evaluation = summarise(self.evaluated)

    def on_validation_epoch_start(self) -> None:
        self.evaluated = []

    def validation_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluation_step(batch, batch_idx, self.trainer.num_val_batches)

    def on_validation_epoch_end(self) -> None:
        self._evaluation_end()
        # What callbacks may go by; every process has the same values.
        means = {f"val/{name}": float(value) for name, value in self.last_evaluation.items() if name.endswith("_mean")}
        self.log_dict(means, logger=False, sync_dist=world()[1] > 1)

    def on_test_epoch_start(self) -> None:
        self.evaluated = []

    def test_step(self, batch: PromptBatch, batch_idx: int) -> None:
        self._evaluation_step(batch, batch_idx, self.trainer.num_test_batches, detailed=True)

    def on_test_epoch_end(self) -> None:
        self._evaluation_end()

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Checkpoints of earlier versions hold the method's state without its prefix, and a calibrated gain's without its average's."""
        state = checkpoint["state_dict"]
        former = [name for name in state if not name.startswith(("policy.", "method.", LEARNED))]
        for name in former:
            state[f"method.{name}"] = state.pop(name)
        for name in [name for name in state if name.endswith(("calibration.state", "calibration.means"))]:
            before, last = name.rsplit(".", 1)
            state[f"{before}.average.{last}"] = state.pop(name)
        if "temperature" in checkpoint:
            state["method._extra_state"] = checkpoint["temperature"]

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The adapters, what the method keeps and what the reward learns: the frozen base never goes into a checkpoint."""
        trained = {name for name, weight in self.named_parameters() if weight.requires_grad}
        whole = super().state_dict(*args, **kwargs)
        kept = ("method.", LEARNED) if isinstance(self.method.reward, Learning) else ("method.",)
        return {name: value for name, value in whole.items() if name in trained or name.startswith(kept)}


class BoundModule(MethodModule):
    """A method as a LightningModule in one step.

    Args:
        context: policy, reward, sampling and objective.
        plan: optimizer, accumulation and evaluation; the defaults if None.
        settings, **values: of the method.
    """

    Gradient: ClassVar[type[Method]]
    Settings: ClassVar[type[MethodSettings]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        cls.Settings = cls.Gradient.Settings

    def __init__(self, context: Context, plan: Plan | None = None, settings: Any = None, **values: Any):
        super().__init__(self.Gradient(context, settings, **values), plan)
