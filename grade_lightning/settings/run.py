"""What belongs to a run whichever its method: optimizer, hardware, evaluation, logging, where it is written."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints

from grade_lightning.settings.fields import Bool, Component, Float, Int, Text, components, key, settings
from grade_lightning.settings.reward import ClassifierJudgeSettings
from grade_lightning.settings.rollout import DecodingSettings

Name = Annotated[str, StringConstraints(pattern=r"^[\w.-]+$", max_length=100)]
Beta = Annotated[float, Field(strict=True, ge=0, lt=1)]


@settings
class TauSettings:
    """The relaxation's temperature, from the first policy step to the last of its schedule."""

    start: Float = key("tau at the first policy step", default=2.0, gt=0, le=1000)
    end: Float = key("tau at the last step of the schedule", default=0.5, gt=0, le=1000)


@settings
class OptimizerSettings:
    """Of the LoRA weights."""

    lr: Float = key("learning rate; the model group gives one", gt=0, le=1e6)
    name: Literal["adamw", "sgd"] = key(
        "adamw, or sgd without momentum: with max_grad_norm below any gradient's norm its steps are lr * max_grad_norm long",
        default="adamw",
    )
    betas: list[Beta] = key("of adamw: decay of the first and of the second moment", default=[0.9, 0.999], min_length=2, max_length=2)
    weight_decay: Float = key("of adamw", default=0.01, ge=0, le=1e3)
    max_grad_norm: Float | None = key("the global gradient norm is clipped to it; null = never", default=1.0, gt=0)
    lr_decay_steps: Int | None = key("policy steps over which the rate falls linearly to 0; null = it stays", default=None, ge=1)

    def factor(self, step: int) -> float:
        """What every learning rate is multiplied by at this policy step, from 1."""
        return 1.0 if self.lr_decay_steps is None else max(0.0, 1.0 - (step - 1) / self.lr_decay_steps)


@settings
class HardwareSettings:
    """Device, precision and how the work is cut; nothing here changes the update."""

    accelerator: Literal["cpu", "cuda", "auto"] = key("auto = cuda if there is a GPU for each process, otherwise cpu", default="cpu")
    precision: Literal["fp32", "bf16"] = key(
        "of the frozen base, in pretraining of products alone; LoRA and the reward head are always fp32", default="fp32"
    )
    grad_accumulation: Int = key("micro-batches an effective batch is split into: less memory, same update", default=1, ge=1)
    distributed: Bool = key("several processes, started by torchrun", default=False)
    sharded: Bool = key("each of several processes holds a part of the base's frozen layers (FSDP2)", default=False)
    activation_checkpointing: Bool = key("compute each layer again in the backward pass: less memory, same update", default=False)


@settings
class EvaluationSettings:
    """Which prompts are evaluated, when and how."""

    seed: Int = key("of evaluation noise, keyed further by prompt: the same for every method, batch size and order", default=0, ge=0)
    batch_size: Int = key("prompts at once; does not change results", default=64, ge=1)
    validate_every: Int = key("policy steps between validations; step 0 and the last step are always validated", default=100, ge=1)
    val_prompts: Int | None = key("a fixed seeded subset of the validation split; null = all of it", default=None, ge=1)
    test_prompts: Int | None = key(
        "a fixed seeded subset of the test split; null = all of it (evaluation.test=false skips the split)", default=None, ge=1
    )
    subset_seed: Int = key("of the subsets", default=0, ge=0)
    sampling: DecodingSettings = key("decoding", default=DecodingSettings())
    scope: Literal["reward", "full", "completion"] = key(
        "what validation and test score: as the reward does in training, or prompt and completion, or the completion alone",
        default="reward",
    )
    test: Bool = key("false: the test split is never touched (searches)", default=True)
    samples: Int = key("kept of the initial and of the final test", default=64, ge=0)
    judges: Any = components(
        "rewards by name that are measured at validation and test and never optimised",
        default={"classifier": Component("grade_lightning.rewards.judge.classifier_judge", ClassifierJudgeSettings())},
    )
    best: Text = key("whose mean at validation decides which adapter is kept as the best: reward, or the name of a judge", default="reward")
    gradient_parts_every: Int = key(
        "policy steps between measurements of the reward's and the KL's gradient apart (train/reward_grad_norm, train/kl_grad_norm), the "
        "first one included; 0 = never", default=10, ge=0,
    )  # fmt: skip
    gradient_cosine_every: Int = key(
        "policy steps between comparisons of a relaxed method's gradient with a policy gradient (train/gradient_cosine); 0 = never",
        default=0, ge=0,
    )  # fmt: skip


@settings
class RunSettings:
    """Where a run is written, which is no part of what it is, and the adapter that it starts from, which is."""

    dir: Text = key("the run folder", default="outputs/run")
    resume: Text | None = key("an unfinished run folder to go on with; the same command into the same run.dir does so too", default=None)
    checkpoint_every: Int = key("policy steps between checkpoints", default=10, ge=1)
    adapter: Text | None = key(
        "folder of an adapter of the same LoRA shape that the policy starts from; the reference stays the base without adapters; null = "
        "new adapters, which change nothing yet", default=None,
    )  # fmt: skip


@settings
class NamesSettings:
    """The groups' choices, for the record."""

    method: Name = key("as in method=", default="grade_ste")
    model: Name = key("as in model=", default="tiny")
    data: Name = key("as in data=", default="synthetic")
    protocol: Name = key("as in protocol=", default="controlled")
