"""Dropout whose mask is a function of (seed, step, row, position), not of how the batch was split."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from grade_lightning.estimators.hashing import splitmix64


class KeyedDropout(nn.Module):
    """Inverted dropout on [B, L, d], identity unless activated.

    Args:
        p: probability of zeroing an element.
        layer: distinguishes this layer's masks from other layers'.
    """

    def __init__(self, p: float, layer: int):
        super().__init__()
        self.p, self.layer = p, layer
        self.keys: Tensor | None = None
        self.positions: Tensor | None = None

    @property
    def active(self) -> bool:
        """Whether masks were given: see :meth:`activate`."""
        return self.keys is not None

    def forward(self, x: Tensor) -> Tensor:
        if self.keys is None or self.positions is None:
            return x
        places = splitmix64(self.keys[:, None] + self.positions)
        bits = splitmix64(places[..., None] + torch.arange(x.shape[-1], device=x.device))
        uniform = (bits & 0xFFFFFF).to(torch.float32) / float(1 << 24)
        return torch.where(uniform >= self.p, x / (1.0 - self.p), torch.zeros_like(x))

    @classmethod
    def install(cls, peft_model: nn.Module, p: float) -> list[KeyedDropout]:
        """Replace the dropout of every LoRA layer; none where p = 0."""
        installed: list[KeyedDropout] = []
        if not 0.0 <= p < 1.0:
            raise ValueError(f"model.lora.dropout must lie in [0, 1), got {p}")
        if p == 0.0:
            return installed
        for module in peft_model.modules():
            dropouts = getattr(module, "lora_dropout", None)
            if isinstance(dropouts, nn.ModuleDict):
                for name in dropouts:
                    installed.append(cls(p, len(installed)))
                    dropouts[name] = installed[-1]
        return installed

    @staticmethod
    def activate(layers: Sequence[KeyedDropout], seed: int, step: int, rows: Tensor) -> None:
        """Masks for these rows [B] of a policy step's effective batch."""
        for layer in layers:
            key = splitmix64(splitmix64(torch.tensor(seed) * 1000003 + step) + layer.layer)
            layer.keys = splitmix64(key + rows.cpu()).to(rows.device)

    @staticmethod
    def deactivate(layers: Sequence[KeyedDropout]) -> None:
        for layer in layers:
            layer.keys = layer.positions = None

    @staticmethod
    def set_positions(layers: Sequence[KeyedDropout], positions: Tensor) -> None:
        """[B, L] position ids of the tokens of the next forward pass; a token keeps its mask however it is batched."""
        for layer in layers:
            layer.positions = positions
