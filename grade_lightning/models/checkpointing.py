"""Layers that keep only their input for the backward pass and are computed again there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer


class CheckpointedLayer:
    """Stands for the ``forward`` of a layer.

    transformers checkpoints a layer in train mode alone, which would turn on the dropout of layers that ask for it themselves: here
    every layer stays in eval mode and computes what it computes without checkpointing.
    """

    def __init__(self, layer: nn.Module):
        self.plain, self.on = layer.forward, False

    @classmethod
    def install(cls, lm: nn.Module) -> list[CheckpointedLayer]:
        """One for every layer that can be computed again."""
        installed = []
        for layer in lm.modules():
            if isinstance(layer, GradientCheckpointingLayer):
                installed.append(cls(layer))
                layer.forward = installed[-1]  # type: ignore[method-assign,assignment]
        return installed

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not self.on:
            return self.plain(*args, **kwargs)
        return checkpoint(self.plain, *args, use_reentrant=False, **kwargs)


@contextmanager
def checkpointed(layers: Sequence[CheckpointedLayer]) -> Iterator[None]:
    """Inside, passes with gradients keep the layers' inputs only; passes without keep nothing anyway."""
    on = torch.is_grad_enabled()
    try:
        for layer in layers:
            layer.on = on
        yield
    finally:
        for layer in layers:
            layer.on = False
