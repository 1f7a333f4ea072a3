"""Weighted means of what a step measures, over micro-batches and processes."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import MeanMetric


class Meter:
    """Named torchmetrics means, made on first use; every process must update the same names."""

    def __init__(self, device: torch.device | str = "cpu"):
        self.device = device
        self._means: dict[str, MeanMetric] = {}

    def update(self, weight: float = 1.0, **values: Tensor | float) -> None:
        """Add values with a common weight (samples or tokens they stand for)."""
        for name, value in values.items():
            if name not in self._means:
                self._means[name] = MeanMetric().to(self.device)
                self._means[name].set_dtype(torch.float64)
            self._means[name].update(value, weight)

    def drop(self, name: str) -> None:
        """Forget what was measured under a name."""
        self._means.pop(name, None)

    def compute(self) -> dict[str, float]:
        """The mean of each name, over all processes."""
        return {name: float(mean.compute()) for name, mean in self._means.items()}
