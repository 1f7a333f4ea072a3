"""What methods that differentiate through relaxed tokens can be told."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from grade_lightning.settings.fields import Bool, Float, Int, component, key, settings
from grade_lightning.settings.method import CHUNKS, MethodSettings

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

    reward_gain: Literal["none", "calibrated"] | Float = key(
        "what the gradient of the reward (never the KL's) is multiplied by: none, a number, or calibrated: by what earlier steps say that "
        "it is too short, compared with RLOO's gradient of hard rollouts", default="none",
    )  # fmt: skip

    @model_validator(mode="after")
    def _gain(self) -> RelaxedSettings:
        if isinstance(self.reward_gain, float) and self.reward_gain <= 0:
            raise ValueError(f"reward_gain={self.reward_gain} must be above 0")
        return self

    @model_validator(mode="after")
    def _truncation(self) -> RelaxedSettings:
        if self.backprop == "sequential" and self.max_hops is not None:
            raise ValueError("max_hops truncates the adjoint: it needs backprop=adjoint")
        return self


@settings
class GainSettings(RelaxedSettings):
    """How a gain of the reward's gradient is learned, where it is calibrated."""

    gain_every: Int = key("policy steps between calibrations", default=1, ge=1)
    gain_scope: Literal["global", "layer"] = key("one gain, or one for each adapter tensor", default="global")
    gain_form: Literal["projection", "regression"] = key(
        "projection: as long along RLOO's gradient as that is, |g|^2 / <g, h> = 1 / c; regression: as near to it as can be, <g, h> / |h|^2",
        default="projection",
    )  # fmt: skip
    gain_momentum: Float = key("what an earlier calibration's weight is multiplied by at each later one", default=0.95, ge=0.7, lt=1)

    @property
    def gain_of_own(self) -> bool:
        """Whether a gain is calibrated with the step's own rollouts."""
        return self.reward_gain == "calibrated" and self.completions_per_prompt > 1 and not self.feeds_mixtures


_ESTIMATORS = "grade_lightning.estimators."
MIXTURES = frozenset({f"{_ESTIMATORS}entropy_gated_weights"})  # of our own relaxations, those whose value is no single token


def check_feeds(*, mixtures: bool, straight_through: bool) -> None:
    """Raise ValueError where a relaxation's values are not what ``straight_through`` says is fed forward."""
    if mixtures and straight_through:
        raise ValueError("relaxation feeds mixtures of tokens: it needs straight_through=false")
    if not mixtures and not straight_through:
        raise ValueError("relaxation replaces the straight-through gradient: it needs straight_through=true")


@settings
class GradeSettings(GainSettings):
    """GRADE and GRADE-STE: backpropagation of the reward through the generated tokens (eq. 7 to 16)."""

    straight_through: Bool = key("hard tokens forward and a soft gradient backward (GRADE-STE); false: soft tokens both ways", default=True)
    relaxation: Any = component("weights of the candidates, a function of grade_lightning.estimators; null = Gumbel-softmax", default=None)
    diagnostics_every: Int = key("policy steps between measurements of the soft - hard reward gap; 0 = never", default=10, ge=0)

    completions_per_prompt: Int = key(  # type: ignore[misc]  # a fact of the class where it cannot be chosen
        "effective_batch_size / this many prompts in one policy step; calibrated gains use a step's own rollouts where it is above 1, and "
        "else a batch of their own", default=1, ge=1,
    )  # fmt: skip
    prompt_weights: Literal["equal", "spread"] = key(
        "spread: each prompt's reward gradient is divided by the standard deviation of the rewards of its completions, as GRPO divides "
        "advantages, and all of them are brought back to the length that RLOO's would have", default="equal",
    )  # fmt: skip

    @property
    def feeds_mixtures(self) -> bool:  # type: ignore[override]
        return not self.straight_through

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
class HybridSettings(RelaxedSettings):
    """RLOO and straight-through gradients of the same rollouts, weights cross-fitted between the halves of the batch."""

    chunks: ClassVar[int] = CHUNKS
    grouped: ClassVar[bool] = True
    one_gradient: ClassVar[bool] = False

    completions_per_prompt: Int = key("effective_batch_size must be a multiple of 4 x this", default=4, ge=2)  # type: ignore[misc]  # a fact of the class where it cannot be chosen
    min_cosine: Float = key("below this agreement of the two directions the step is RLOO's alone", default=0.1, ge=-1, le=1)
    reward_gain: Literal["none"] | Float = key(
        "none, or a number that the gradient of the reward (never the KL's) is multiplied by; calibrated it is already: the weights of its "
        "parts make it as long as RLOO's", default="none",
    )  # fmt: skip
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
class ResidualSettings(GainSettings):
    """Straight-through for a surrogate of the reward, and RLOO for what the surrogate leaves, from the same rollouts."""

    grouped: ClassVar[bool] = True
    needs_surrogate: ClassVar[bool] = True

    completions_per_prompt: Int = key("effective_batch_size / this many prompts in one policy step", default=4, ge=2)  # type: ignore[misc]  # a fact of the class where it cannot be chosen
