"""What the rest of the suite must know of every method without importing it."""

from __future__ import annotations

from typing import ClassVar

from grade_lightning.settings.fields import settings

CHUNKS = 4  # of an effective batch, all processes together: enough for inner products of different ones


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
