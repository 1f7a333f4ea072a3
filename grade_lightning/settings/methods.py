"""What each method can be told."""

from __future__ import annotations

from typing import ClassVar, Literal

from grade_lightning.settings.fields import Bool, Float, Int, key, settings
from grade_lightning.settings.method import MethodSettings
from grade_lightning.settings.relaxed import AnnealedSettings, GradeSettings, HybridSettings, ResidualSettings


@settings
class ReinforceSettings(MethodSettings):
    """REINFORCE with a moving-average baseline (eq. 5)."""

    baseline_momentum: Float = key("b <- momentum b + (1 - momentum) mean reward", default=0.9, ge=0, lt=1)
    advantage_normalisation: Literal["none", "batch"] = key(
        "batch: zero mean and unit standard deviation (ddof 1) over the effective batch, which leaves the baseline without effect",
        default="none",
    )


@settings
class GroupSettings(MethodSettings):
    """Methods that compare several completions of the same prompt."""

    grouped: ClassVar[bool] = True

    completions_per_prompt: Int = key("effective_batch_size / this many prompts in one policy step", default=4, ge=2)  # type: ignore[misc]  # a fact of the class where it cannot be chosen


@settings
class RLOOSettings(GroupSettings):
    """REINFORCE leave-one-out: the prompt's other completions are the baseline (2402.14740)."""


@settings
class CreditSettings(GroupSettings):
    """RLOO with first-order effects of single tokens on the reward."""

    needs_gradient: ClassVar[bool] = True

    form: Literal["credit", "control_variate"] = key(
        "credit: each token by its own effect (Grad2Reward, 2602.01791); control_variate: straight-through for these effects, RLOO for "
        "what they leave of the reward", default="credit",
    )  # fmt: skip


@settings
class GRPOSettings(GroupSettings):
    """Group-relative policy optimisation (2402.03300)."""

    match_kl: Bool = key(
        "scale the KL as normalised advantages scale the reward's gradient, so that kl_coef weighs it as it does for other methods; needs "
        "the KL in the loss", default=False,
    )  # fmt: skip
    variant: Literal["grpo", "dr_grpo"] = key("dr_grpo: without the division by standard deviation and length (2503.20783)", default="grpo")


@settings
class PPOSettings(MethodSettings):
    """PPO with a value head (eq. 6, Table 3)."""

    one_gradient: ClassVar[bool] = False
    clipped_extras: ClassVar[bool] = True

    match_kl: Bool = key(
        "scale the KL as whitened advantages and means over tokens scale the reward's gradient, so that kl_coef weighs it as it does for "
        "other methods; needs the KL in the loss", default=False,
    )  # fmt: skip
    epochs: Int = key("updates from one batch of rollouts", default=4, ge=1, le=10_000)
    cliprange: Float = key("of the probability ratio", default=0.2, gt=0)
    gamma: Float = key("discount a token", default=0.99, ge=0, le=1)
    lam: Float = key("of the generalised advantage estimate", default=0.95, ge=0, le=1)
    vf_coef: Float = key("weight of the value loss", default=0.5, ge=0)
    entropy_coef: Float = key("weight of the entropy", default=0.01, ge=0)
    value_lr: Float | None = key("learning rate of the value head; null = the policy's", default=1e-3, gt=0, le=1e6)
    value_cliprange: Float | None = key("values stay this near the old ones; null = not clipped", default=None, gt=0)
    whiten_advantages: Bool = key("zero mean and unit variance over the real tokens of the effective batch", default=True)
    target_kl: Float | None = key("no further update once approximate KL to the old policy exceeds it; null = never", default=None, gt=0)
    gae_axis: Literal["time", "batch"] = key("batch: the recursion runs over the rows of the batch (an error to study)", default="time")
    terminal_reward: Literal["last_token", "last_column"] = key(
        "on the last real token; last_column: on the last column, padding included, so that a row that ended early gets none",
        default="last_token",
    )
    value_head_dtype: Literal["fp32", "bf16"] = key(
        "fp32, starting at 0; or bf16, starting at random, where small updates are lost to rounding", default="fp32"
    )


METHODS: dict[str, type] = {
    "grade_lightning.methods.GRADE": GradeSettings,
    "grade_lightning.methods.REINFORCE": ReinforceSettings,
    "grade_lightning.methods.RLOO": RLOOSettings,
    "grade_lightning.methods.GRPO": GRPOSettings,
    "grade_lightning.methods.PPO": PPOSettings,
    "grade_lightning.methods.Hybrid": HybridSettings,
    "grade_lightning.methods.Annealed": AnnealedSettings,
    "grade_lightning.methods.Residual": ResidualSettings,
    "grade_lightning.methods.TokenCredit": CreditSettings,
}
