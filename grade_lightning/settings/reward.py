"""What is maximised."""

from __future__ import annotations

from typing import Literal

from grade_lightning.settings.fields import Float, Int, key, settings

Scope = Literal["full", "completion"]


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
class ClassifierHeadSettings:
    """P(positive) from a head on the frozen base itself (eq. 13, Appendix A.2)."""

    scope: Scope = key("what is scored in training: prompt and completion, or the completion alone", default="full")
    head: HeadSettings = key("recipe of the head", default=HeadSettings())


REWARDS: dict[str, type] = {"grade_lightning.rewards.head_training.trained_classifier": ClassifierHeadSettings}
