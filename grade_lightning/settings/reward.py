"""What is maximised."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import field_validator

from grade_lightning.settings.fields import Bool, Float, Int, Text, key, settings

Scope = Literal["full", "completion"]


@settings
class RewardSettings:
    """Base of the rewards' settings: facts that checks need before anything heavy is imported.

    Attributes:
        differentiable: scores have a gradient with respect to relaxed tokens.
        soft: mixtures of tokens can be scored.
        labelled: it is trained on the labelled reviews of the reward split.
        scoped: it can score the completion without its prompt.
    """

    differentiable: ClassVar[bool] = True
    soft: ClassVar[bool] = False
    labelled: ClassVar[bool] = False
    scoped: ClassVar[bool] = False


@settings
class HeadSettings:
    """Recipe of the reward head."""

    lr: Float = key("of AdamW", default=2e-5, gt=0, le=10)
    weight_decay: Float = key("of AdamW", default=0.01, ge=0, le=1e3)
    batch_size: Int = key("reviews in one optimizer step", default=16, ge=1)
    epochs: Int = key("passes over the reward split", default=1, ge=1, le=100_000)
    text_tokens: Int = key("reviews are cut to this many tokens", default=256, ge=1)
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
class ClassifierJudgeSettings(RewardSettings):
    """TF-IDF and logistic regression on labelled rows that no split uses; a judge, absent where there are no labels."""

    differentiable: ClassVar[bool] = False


REWARDS: dict[str, type] = {
    "grade_lightning.rewards.judge.classifier_judge": ClassifierJudgeSettings,
    "grade_lightning.rewards.head_training.trained_classifier": ClassifierHeadSettings,
    "grade_lightning.rewards.sequence_classifier.sequence_classifier": SequenceClassifierSettings,
    "grade_lightning.rewards.function.function_reward": FunctionSettings,
}
