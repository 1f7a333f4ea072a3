"""What is maximised."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from grade_lightning.given import fact_of
from grade_lightning.settings.fields import Bool, Float, Int, Text, component, components, key, parts_of, settings

Scope = Literal["full", "completion"]


@settings
class RewardSettings:
    """Base of the rewards' settings: facts that checks need before anything heavy is imported.

    Attributes:
        differentiable: scores have a gradient with respect to relaxed tokens.
        soft: mixtures of tokens can be scored.
        labelled: it is trained on the labelled reviews of the reward split.
        scoped: it can score the completion without its prompt.
        learns: its gradient is learned while the policy is trained.
    """

    differentiable: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    scoped: ClassVar[bool] = False
    learns: ClassVar[bool] = False


@settings
class HeadSettings:
    """Recipe of the reward head."""

    lr: Float = key("of AdamW", default=2e-5, gt=0, le=10)
    weight_decay: Float = key("of AdamW", default=0.01, ge=0, le=1e3)
    batch_size: Int = key("reviews in one optimizer step", default=16, ge=1)
    epochs: Int = key("passes over the reward split", default=1, ge=1, le=100_000)
    text_tokens: Int = key("reviews are cut to this many tokens", default=256, ge=1)
    learn_from: Literal["reward", "labelled"] = key(
        "the reward split, or every labelled row but the held-out ones, test prompts included: a judge of heads that know less",
        default="reward",
    )  # fmt: skip
    rows: Int | None = key("only the first so many of them; null = all", default=None, ge=2)
    heldout_rows: Int = key("labelled rows, used by no split, on which accuracy is measured", default=1000, ge=0)
    seed: Int = key("of initial weights and order", default=0, ge=0)


@settings
class ClassifierHeadSettings(RewardSettings):
    """P(positive) from a head on the frozen base itself (eq. 13, Appendix A.2)."""

    soft: ClassVar[bool] = True
    labelled: ClassVar[bool] = True
    scoped: ClassVar[bool] = True

    scope: Scope = key("what is scored: prompt and completion, or the completion alone", default="full")
    head: HeadSettings = key("recipe of the head", default=HeadSettings())


@settings
class SequenceClassifierSettings(RewardSettings):
    """A sequence-classification model of any architecture and vocabulary; its gradient comes back by the text that tokens spell."""

    scoped: ClassVar[bool] = True

    path: Text = key("a folder in the Hugging Face layout, or a hub id")
    label: Int | Text | None = key("whose logit is the reward, by name or place; null = the only one, or of two the second", default=None)
    output: Literal["probability", "margin", "raw"] = key(
        "of the label: its probability, its logit minus the log of the sum of the others' exponentials, or its logit", default="probability"
    )
    template: Text = key("what the model reads; {prompt} and {completion} stand for the texts", default="{prompt}{completion}")
    max_length: Int | None = key("tokens that the model reads at most; null = as many as it can", default=None, ge=8)
    scope: Scope = key("what is scored: prompt and completion, or (the template without {prompt}) the completion alone", default="full")
    batch_size: Int = key("texts at once; does not change results beyond rounding", default=64, ge=1)
    revision: Text | None = key("of the hub repository", default=None)
    trust_remote_code: Bool = key("run code that the repository ships", default=False)

    @field_validator("template")
    @classmethod
    def _template(cls, template: str) -> str:
        if template.count("{completion}") != 1 or template.count("{prompt}") > 1:
            raise ValueError(f"template={template} must hold {{completion}} once, and {{prompt}} at most once")
        return template


@settings
class FunctionSettings(RewardSettings):
    """A Python function of texts: ``fn(prompts=[...], completions=[...], **columns) -> list of numbers``, as TRL calls its own."""

    differentiable: ClassVar[bool] = False

    function: Text = key("package.module:name, importable from where the command runs")


@settings
class GivenSettings(RewardSettings):
    """A function or reward that the Python API was given; what it can do is asked of itself."""

    name: Text = key("under which this process has it")

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return fact_of(self.name, "differentiable")

    @property
    def soft(self) -> bool:  # type: ignore[override]
        return fact_of(self.name, "soft")

    @property
    def scoped(self) -> bool:  # type: ignore[override]
        return fact_of(self.name, "score")


@settings
class LikelihoodSettings(RewardSettings):
    """How likely another language model finds the completion after its prompt, in nats per token of its own."""

    differentiable: ClassVar[bool] = False

    path: Text = key("a folder in the Hugging Face layout, or a hub id, of a causal language model")
    max_length: Int = key("tokens that the model reads at most, and as many as it can; of longer texts the end", default=1024, ge=8)
    revision: Text | None = key("of the hub repository", default=None)
    trust_remote_code: Bool = key("run code that the repository ships", default=False)


@settings
class PreferenceHeadSettings:
    """Recipe of a head that learns from preferences or scores."""

    lr: Float = key("of AdamW", default=1e-3, gt=0, le=10)
    weight_decay: Float = key("of AdamW", default=0.01, ge=0, le=1e3)
    batch_size: Int = key("rows in one optimizer step", default=32, ge=1)
    epochs: Int = key("passes over the rows", default=8, ge=1, le=100_000)
    text_tokens: Int = key("prompt and completion are cut to this many tokens", default=256, ge=1)
    heldout_share: Float = key("of the prompts, on which it is measured and not trained", default=0.1, gt=0, lt=0.9)
    seed: Int = key("of initial weights, order and held-out prompts", default=0, ge=0)


@settings
class PreferenceSettings(RewardSettings):
    """A head on the policy's own base, trained on pairs of a chosen and a rejected completion (Bradley-Terry), or on scores."""

    soft: ClassVar[bool] = True
    scoped: ClassVar[bool] = True

    path: Text = key("a .jsonl, .json, .csv or .parquet file, a folder of such files, or a hub data set")
    objective: Literal["pairs", "scores"] = key(
        "pairs: columns chosen, rejected and perhaps prompt; scores: completion, score and perhaps prompt", default="pairs"
    )
    scope: Scope = key("what is scored: prompt and completion, or the completion alone", default="full")
    head: PreferenceHeadSettings = key("recipe of the head", default=PreferenceHeadSettings())
    hub_split: Text = key("of a hub data set", default="train")
    revision: Text | None = key("of the hub repository", default=None)


_TAKEN = {"mean", "std", "uncertainty", "seconds", "grad_norm", "gain", "scale"}  # as reward_NAME


@settings
class ComposedSettings(RewardSettings):
    """What rewards that are made of others share: facts that follow from their parts'."""

    def _all(self, fact: str) -> bool:
        return all(getattr(part.settings, fact, True) for part in parts_of(self).values())

    @property
    def scoped(self) -> bool:  # type: ignore[override]
        return self._all("scoped")

    @property
    def labelled(self) -> bool:  # type: ignore[override]
        return any(getattr(part.settings, "labelled", False) for part in parts_of(self).values())


@settings
class SumSettings(ComposedSettings):
    """A weighted sum of rewards, each part logged and reported on its own."""

    parts: Any = components("rewards by name", default={})
    weights: dict[str, float] = key("of parts by name; 1 where none is given", default={})

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        return self._all("differentiable")

    @property
    def soft(self) -> bool:  # type: ignore[override]
        return self._all("soft")

    @model_validator(mode="after")
    def _named(self) -> SumSettings:
        if not self.parts:
            raise ValueError("reward=sum has no parts: add some with +reward@reward.parts.NAME=OPTION")
        unknown = sorted(set(self.weights) - set(self.parts))
        if unknown:
            raise ValueError(f"reward.weights names {unknown[0]}, which is no part: parts are {', '.join(self.parts)}")
        taken = sorted(set(self.parts) & _TAKEN)
        if taken:
            raise ValueError(f"reward_{taken[0]} is a measurement of every run: give the part {taken[0]} another name")
        learning = [name for name, part in self.parts.items() if getattr(getattr(part, "settings", None), "learns", False)]
        if learning:
            raise ValueError(f"the part {learning[0]} is a surrogate: make a surrogate of the sum instead (reward@reward.of=sum)")
        return self


@settings
class SurrogateSettings(ComposedSettings):
    """Any reward with the gradient of a stand-in that is fitted online to its values, so that relaxed methods can use it."""

    learns: ClassVar[bool] = True

    of: Any = component("the reward whose values are learned")
    capacity: Int = key("completions that the fit remembers, the latest ones", default=2048, ge=2)
    least: Int = key("completions before the first fit; until then the gradient is 0", default=64, ge=2)
    scope: Scope = key("tokens whose states and embeddings are averaged: the completion's, or the prompt's too", default="completion")

    @model_validator(mode="after")
    def _sizes(self) -> SurrogateSettings:
        if self.least > self.capacity:
            raise ValueError(f"least={self.least} completions do not fit into capacity={self.capacity}: lower one or raise the other")
        if getattr(getattr(self.of, "settings", None), "learns", False):
            raise ValueError("a surrogate of a surrogate has nothing to learn from: name the reward itself")
        return self


@settings
class ClassifierJudgeSettings(RewardSettings):
    """TF-IDF and logistic regression on labelled rows that no split uses; a judge, absent where there are no labels."""

    differentiable: ClassVar[bool] = False


REWARDS: dict[str, type] = {
    "grade_lightning.rewards.preference.preference": PreferenceSettings,
    "grade_lightning.rewards.likelihood.likelihood": LikelihoodSettings,
    "grade_lightning.rewards.sum.sum_reward": SumSettings,
    "grade_lightning.rewards.surrogate.surrogate": SurrogateSettings,
    "grade_lightning.rewards.judge.classifier_judge": ClassifierJudgeSettings,
    "grade_lightning.rewards.head_training.trained_classifier": ClassifierHeadSettings,
    "grade_lightning.rewards.sequence_classifier.sequence_classifier": SequenceClassifierSettings,
    "grade_lightning.rewards.function.function_reward": FunctionSettings,
    "grade_lightning.rewards.given.given_reward": GivenSettings,
}
