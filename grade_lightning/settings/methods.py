"""What each method can be told, and what the rest of the suite must know of it without importing it."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from grade_lightning.settings.fields import Bool, Float, Int, component, key, settings


@settings
class MethodSettings:
    """Base of the methods' settings: facts that checks and studies need before anything heavy is imported.

    Attributes:
        relaxed: the method differentiates through relaxed tokens: it has a temperature and the exact KL as part of its loss.
        feeds_mixtures: it feeds mixtures of tokens forward, which have no text.
        one_gradient: a policy step is one gradient of one batch, so that a gradient study can measure it.
        clipped_extras: the method trains weights of its own beside the adapters, which plain SGD with tiny steps would not move.
        chunks: equal parts, each of whole prompts, that the method cuts an effective batch into.
        grouped: completions of the same prompt are compared with each other.
        completions_per_prompt: how often each prompt stands in an effective batch.
        needs_surrogate: the reward must be a surrogate.
        needs_gradient: the reward must be differentiable in relaxed tokens.
    """

    relaxed: ClassVar[bool] = False
    feeds_mixtures: ClassVar[bool] = False
    one_gradient: ClassVar[bool] = True
    clipped_extras: ClassVar[bool] = False
    chunks: ClassVar[int] = 1
    grouped: ClassVar[bool] = False
    completions_per_prompt: ClassVar[int] = 1
    needs_surrogate: ClassVar[bool] = False
    needs_gradient: ClassVar[bool] = False


CHUNKS = 4  # of an effective batch, all processes together: enough for inner products of different ones
Backprop = Literal["adjoint", "sequential"]


@settings
class RelaxedSettings(MethodSettings):
    """What all methods with relaxed tokens share."""

    relaxed: ClassVar[bool] = True
    needs_gradient: ClassVar[bool] = True

    temperature: Any = component("tau over the policy steps; the group temperature decides")
    backprop: Backprop = key("adjoint (parallel, exact to tol), or sequential (token by token)", default="adjoint")
    tol: Float = key("of the adjoint series, a completion: size of the first term left out relative to the sum", default=1e-3, gt=0, lt=1)
    max_hops: Int | None = key(
        "hops of the adjoint from a token to an earlier one; null = as many as it takes, fewer = truncated backpropagation through time, "
        "0 = tokens that were fed are constants", default=None, ge=0,
    )  # fmt: skip

    @model_validator(mode="after")
    def _truncation(self) -> RelaxedSettings:
        if self.backprop == "sequential" and self.max_hops is not None:
            raise ValueError("max_hops truncates the adjoint: it needs backprop=adjoint")
        return self


_ESTIMATORS = "grade_lightning.estimators."
MIXTURES = frozenset({f"{_ESTIMATORS}entropy_gated_weights"})  # of our own relaxations, those whose value is no single token


def check_feeds(*, mixtures: bool, straight_through: bool) -> None:
    """Raise ValueError where a relaxation's values are not what ``straight_through`` says is fed forward."""
    if mixtures and straight_through:
        raise ValueError("relaxation feeds mixtures of tokens: it needs straight_through=false")
    if not mixtures and not straight_through:
        raise ValueError("relaxation replaces the straight-through gradient: it needs straight_through=true")


@settings
class GradeSettings(RelaxedSettings):
    """GRADE and GRADE-STE: backpropagation of the reward through the generated tokens (eq. 7 to 16)."""

    straight_through: Bool = key("hard tokens forward and a soft gradient backward (GRADE-STE); false: soft tokens both ways", default=True)
    relaxation: Any = component("weights of the candidates, a function of grade_lightning.estimators; null = Gumbel-softmax", default=None)
    diagnostics_every: Int = key("policy steps between measurements of the soft - hard reward gap; 0 = never", default=10, ge=0)

    reward_gain: Literal["none", "calibrated"] | Float = key(
        "what the gradient of the reward (never the KL's) is multiplied by: none, a number, or calibrated: by what earlier steps say that "
        "it is too short, compared with RLOO's gradient of the same kind of rollouts", default="none",
    )  # fmt: skip
    completions_per_prompt: Int = key(  # type: ignore[misc]  # a fact of the class where it cannot be chosen
        "effective_batch_size / this many prompts in one policy step; calibrated gains use a step's own rollouts where it is above 1, and "
        "else a batch of their own", default=1, ge=1,
    )  # fmt: skip
    prompt_weights: Literal["equal", "spread"] = key(
        "spread: each prompt's reward gradient is divided by the standard deviation of the rewards of its completions, as GRPO divides "
        "advantages, and all of them are brought back to the length that RLOO's would have", default="equal",
    )  # fmt: skip
    gain_every: Int = key("policy steps between calibrations", default=1, ge=1)
    gain_scope: Literal["global", "layer"] = key("one gain, or one for each adapter tensor", default="global")
    gain_form: Literal["regression", "projection"] = key(
        "regression: as near to RLOO's gradient as can be, <g, h> / |h|^2; projection: as long along it, |g|^2 / <g, h>, which needs the "
        "length of a noisy gradient", default="regression",
    )  # fmt: skip
    gain_momentum: Float = key("what an earlier calibration's weight is multiplied by at each later one", default=0.95, ge=0.5, lt=1)

    @property
    def feeds_mixtures(self) -> bool:  # type: ignore[override]
        return not self.straight_through

    @property
    def chunks(self) -> int:  # type: ignore[override]
        return CHUNKS if self.reward_gain == "calibrated" and self.completions_per_prompt > 1 else 1

    @model_validator(mode="after")
    def _gain(self) -> GradeSettings:
        if self.reward_gain == "calibrated" and not self.straight_through:
            raise ValueError("reward_gain=calibrated compares with RLOO on hard tokens, which soft GRADE does not sample: give a number")
        if isinstance(self.reward_gain, float) and self.reward_gain <= 0:
            raise ValueError(f"reward_gain={self.reward_gain} must be above 0")
        return self

    @model_validator(mode="after")
    def _weights_of_prompts(self) -> GradeSettings:
        if self.prompt_weights == "equal":
            return self
        if self.completions_per_prompt < 2:
            raise ValueError("prompt_weights=spread compares the completions of a prompt: set completions_per_prompt to 2 or more")
        if not self.straight_through:
            raise ValueError("prompt_weights=spread compares completions of hard tokens, which straight_through=false does not feed")
        if self.reward_gain == "calibrated":
            raise ValueError(
                "reward_gain=calibrated compares with RLOO, which weighs prompts alike: give a number, or prompt_weights=equal"
            )
        return self

    @model_validator(mode="after")
    def _mixture(self) -> GradeSettings:
        target = getattr(self.relaxation, "target", None)
        if target is not None and target.startswith(_ESTIMATORS):
            check_feeds(mixtures=target in MIXTURES, straight_through=self.straight_through)
        return self


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
class HybridSettings(RelaxedSettings):
    """RLOO and straight-through gradients of the same rollouts, weights cross-fitted between the halves of the batch."""

    chunks: ClassVar[int] = CHUNKS
    grouped: ClassVar[bool] = True
    one_gradient: ClassVar[bool] = False

    completions_per_prompt: Int = key("effective_batch_size must be a multiple of 4 x this", default=4, ge=2)  # type: ignore[misc]  # a fact of the class where it cannot be chosen
    min_cosine: Float = key("below this agreement of the two directions the step is RLOO's alone", default=0.1, ge=-1, le=1)
    momentum: Float = key("of the running second moments, in policy steps; 0 = this step's other half alone", default=0.98, ge=0, lt=1)


@settings
class AnnealedSettings(GradeSettings):
    """Straight-through and policy gradients of the same rollouts, the share of the first falling with the steps."""

    grouped: ClassVar[bool] = True

    half: Float = key("policy steps after which both have the same share", default=100.0, gt=0)
    max_hops: Int | None = key(
        "hops of the adjoint from a token to an earlier one; 0 = tokens that were fed are constants, which ended in the same place for "
        "less; null = as many as it takes", default=0, ge=0,
    )  # fmt: skip
    policy_gradient: Literal["rloo", "grpo"] = key(
        "what straight-through fades into; grpo: advantages divided by their spread among a prompt's completions, the whole as long along "
        "RLOO's as these are", default="grpo",
    )  # fmt: skip
    completions_per_prompt: Int = key("effective_batch_size / this many prompts in one policy step", default=4, ge=2)  # type: ignore[misc]  # a fact of the class where it cannot be chosen

    @model_validator(mode="after")
    def _hard(self) -> AnnealedSettings:
        if not self.straight_through:
            raise ValueError("straight_through=false feeds mixtures, which a policy gradient cannot credit: both parts share hard rollouts")
        return self


@settings
class ResidualSettings(RelaxedSettings):
    """Straight-through for a surrogate of the reward, and RLOO for what the surrogate leaves, from the same rollouts."""

    grouped: ClassVar[bool] = True
    needs_surrogate: ClassVar[bool] = True

    completions_per_prompt: Int = key("effective_batch_size / this many prompts in one policy step", default=4, ge=2)  # type: ignore[misc]  # a fact of the class where it cannot be chosen


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
