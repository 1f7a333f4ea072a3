"""What a reward is, and what it may see of completions."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grade_lightning.data.corpus import Splits
from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import SoftTokens
from grade_lightning.models.base import BaseLM
from grade_lightning.models.policy import Policy
from grade_lightning.settings.reward import Scope


def check_scope(scope: str) -> None:
    """Raise ValueError for an unknown scope."""
    if scope not in get_args(Scope):
        raise ValueError(f"reward.scope={scope} is unknown: use one of {', '.join(get_args(Scope))}")


@dataclass(frozen=True, eq=False)
class Completions:
    """B completions with their prompts, in every view that a reward may want; texts are made when they are asked for.

    Attributes:
        prompt: the prompts.
        ids: [B, T] token ids.
        mask: [B, T] bool, True = real token (the first end of sequence is one).
        tokenizer: of the policy.
        soft: the same tokens relaxed, with weights [B, T, k] that may require gradients; None = hard tokens.
        states: [B, P + T, d] hidden states of the reference on these very tokens, where the caller has them already; they carry a graph to
            the weights of ``soft`` if there is one.
    """

    prompt: PromptBatch
    ids: Tensor
    mask: Tensor
    tokenizer: PreTrainedTokenizerBase
    soft: SoftTokens | None = None
    states: Tensor | None = None

    def __len__(self) -> int:
        return self.ids.shape[0]

    def with_states(self, states: Tensor | None) -> Completions:
        """The same with the reference's states."""
        return replace(self, states=states)

    @cached_property
    def token_ids(self) -> list[list[int]]:
        """Real tokens of each completion."""
        return [row[real].tolist() for row, real in zip(self.ids.cpu(), self.mask.cpu(), strict=True)]

    @cached_property
    def texts(self) -> list[str]:
        """Each completion as text, without special tokens."""
        return self.tokenizer.batch_decode(self.token_ids, skip_special_tokens=True)

    @cached_property
    def prompt_token_ids(self) -> list[list[int]]:
        """Real tokens of each prompt as the policy read it: it may have been cut."""
        prompt = self.prompt
        return [row[real].tolist() for row, real in zip(prompt.ids.cpu(), prompt.mask.cpu(), strict=True)]

    @cached_property
    def prompt_texts(self) -> list[str]:
        """Each prompt as the policy read it, as text without special tokens."""
        return self.tokenizer.batch_decode(self.prompt_token_ids, skip_special_tokens=True)

    @cached_property
    def whole_texts(self) -> list[str]:
        """Prompt and completion as one text, without special tokens."""
        both = [[*opening, *own] for opening, own in zip(self.prompt_token_ids, self.token_ids, strict=True)]
        return self.tokenizer.batch_decode(both, skip_special_tokens=True)

    @property
    def columns(self) -> dict[str, list[Any]]:
        """The data set's further columns, a list for each name."""
        rows = self.prompt.columns
        names = dict.fromkeys(name for row in rows for name in row)  # in order
        return {name: [row.get(name) for row in rows] for name in names}


class Reward(Protocol):
    """What a method needs of a reward: one class, one settings class and one YAML file make another.

    Attributes:
        differentiable: its scores have a gradient with respect to the weights of relaxed tokens, which relaxed methods need.
        soft: it can score mixtures of tokens, which soft GRADE feeds forward.
        range: smallest and largest score; None = no such bound.
        vocabulary: tokens that it reads as the policy writes them; None = it reads text.
        reads_states: it scores from the reference's hidden states where they are lent.
    """

    differentiable: bool
    soft: bool
    range: tuple[float | None, float | None]
    vocabulary: int | None
    reads_states: bool

    def score(self, completions: Completions) -> Tensor:
        """[B] scores, differentiable in ``completions.soft.weights`` where there are relaxed tokens and ``differentiable`` is True."""
        ...

    def scoped(self, scope: str) -> Reward | None:
        """The same reward of ``full`` (prompt + completion) or of ``completion`` alone; None where it knows no scopes."""
        ...


@runtime_checkable
class Composed(Protocol):
    """A reward that is made of others."""

    def score_with_parts(self, completions: Completions) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] scores, and those of each part by its name."""
        ...


@runtime_checkable
class Learning(Protocol):
    """A reward whose gradient (never its value) is learned while the policy is trained; its buffers are part of checkpoints."""

    def learn(self) -> dict[str, float]:
        """Called once after each policy step, on every process; returns what is logged."""
        ...

    def discard(self) -> None:
        """Forget the completions scored since the last policy step: they were measured, not trained on."""
        ...

    def aside(self) -> AbstractContextManager[None]:
        """Inside, completions are scored and never learned from; those of the step that were scored before stay known."""
        ...


class Scored(NamedTuple):
    """Scores and where they come from.

    Attributes:
        scores: [B].
        parts: [B] of each part of a reward that is made of others; otherwise empty.
        seconds: that the reward took.
    """

    scores: Tensor
    parts: dict[str, Tensor]
    seconds: float

    def detach(self) -> Scored:
        """The same without gradients."""
        return Scored(self.scores.detach(), {name: part.detach() for name, part in self.parts.items()}, self.seconds)


def scored(reward: Reward, completions: Completions) -> Scored:
    """What a reward gives to completions, part by part where it has parts."""
    start = time.perf_counter()
    scores, parts = reward.score_with_parts(completions) if isinstance(reward, Composed) else (reward.score(completions), {})
    return Scored(scores, parts, time.perf_counter() - start)


@dataclass(frozen=True)
class RewardInputs:
    """What a run gives to the function that makes its reward.

    Attributes:
        base: the frozen base LM.
        policy: base + LoRA; lends its base, of which no weights are copied.
        splits: of labelled reviews; None where the data have no labels.
        clean_html: whether ``<br />`` becomes a newline in reviews.
        precision: of frozen weights.
    """

    base: BaseLM
    policy: Policy
    splits: Splits | None
    clean_html: bool = True
    precision: str = "fp32"


def evaluation_reward(reward: Reward, scope: str) -> Reward:
    """What evaluation scores with.

    Args:
        reward: of training.
        scope: ``reward`` = as training does; ``full`` or ``completion``.

    Raises:
        ValueError: the reward knows no scopes.
    """
    if scope == "reward":
        return reward
    found = reward.scoped(scope)
    if found is None:
        raise ValueError("evaluation.scope: this reward has no scope: leave it at reward")
    return found


def is_probability(reward: Reward) -> bool:
    """Whether scores lie between 0 and 1, where p (1 - p) says how undecided they are."""
    return reward.range == (0.0, 1.0)


def linearised(values: Tensor, weights: Tensor, gradient: Tensor) -> Tensor:
    """Scores with given values [B] and a given gradient [B, T, k] with respect to the weights [B, T, k]: one node of the graph."""
    return values.detach() + (gradient.detach() * (weights - weights.detach())).flatten(1).sum(dim=1).to(values.dtype)
