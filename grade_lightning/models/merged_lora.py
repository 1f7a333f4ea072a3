"""A linear layer and its LoRA adapter as one product."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn
from torch.func import functional_call

from grade_lightning.models.dropout import KeyedDropout


class MergedLora:
    """Computes x (W + s B A)^T with the sum in the autograd graph: the same function and gradients as PEFT's x W^T + s (x A^T) B^T.

    A backward pass towards x alone then costs one product, and small models' adapters, a product of three, vanish from it.  PEFT's
    own forward stays in charge where merging would not pay (fewer tokens than the layer is wide) or would change the result: in
    16-bit weights, which round the adapters away, and under dropout, which is on the adapters' input only.
    """

    def __init__(self, layer: LoraLayer):
        self.layer, self.apart = layer, layer.forward  # type: ignore[attr-defined]
        self.rounds, self._pair = False, (torch.empty(0), torch.empty(0))

    @classmethod
    def install(cls, peft_model: nn.Module) -> None:
        """Let every LoRA layer of a model with the one adapter ``default`` compute this way."""
        for layer in _lora_layers(peft_model):
            layer.forward = cls(layer)  # type: ignore[attr-defined]

    @staticmethod
    def remove(peft_model: nn.Module) -> None:
        """Give every LoRA layer PEFT's own forward back."""
        for merged in _merged(peft_model):
            merged.layer.forward = merged.apart  # type: ignore[attr-defined]

    @staticmethod
    @contextmanager
    def rounded(peft_model: nn.Module) -> Iterator[None]:
        """Adapters in their layer's own 16 bits, for passes without gradients: two operations for the six of an adapter in fp32.

        The rounded copies keep their addresses from one time to the next, for captured graphs.
        """
        layers = _merged(peft_model)
        before = [layer.rounds for layer in layers]
        for layer in layers:
            layer._round()
        try:
            yield
        finally:
            for layer, rounded in zip(layers, before, strict=True):
                layer.rounds = rounded

    @torch.inference_mode(False)  # whose own tensors nothing else may write into
    @torch.no_grad()
    def _round(self) -> None:
        weight: Tensor = self.layer.get_base_layer().weight  # type: ignore[assignment]
        sources = [getattr(self.layer, name)["default"].weight for name in ("lora_A", "lora_B")]
        if any((own.device, own.dtype) != (weight.device, weight.dtype) for own in self._pair):
            first, second = (source.to(weight, copy=True) for source in sources)
            self._pair = first, second
        for own, source in zip(self._pair, sources, strict=True):
            own.copy_(source)
        self.rounds = True

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.layer
        base = layer.get_base_layer()
        weight: Tensor = base.weight  # type: ignore[assignment]
        pays = x.numel() // x.shape[-1] >= x.shape[-1]
        if layer.disable_adapters and not layer.merged:
            return base(x, *args, **kwargs)  # past PEFT's checks of its arguments, which take longer than a small product
        if self.rounds and not layer.merged:
            found: Tensor = base(x, *args, **kwargs)
            first, second = self._pair
            inner = x.flatten(0, -2) @ first.T
            return torch.addmm(found.flatten(0, -2), inner, second.T, alpha=layer.scaling["default"]).view_as(found)  # type: ignore[index]
        if layer.disable_adapters or weight.element_size() < 4 or not pays or self._drops():
            return self.apart(x, *args, **kwargs)
        delta = layer.get_delta_weight("default").to(weight.dtype)  # type: ignore[attr-defined]
        return functional_call(base, {"weight": weight + delta}, (x,))

    def _drops(self) -> bool:
        dropout = self.layer.lora_dropout["default"]
        return isinstance(dropout, KeyedDropout) and dropout.active


def _lora_layers(peft_model: nn.Module) -> list[LoraLayer]:
    return [module for module in peft_model.modules() if isinstance(module, LoraLayer)]


def _merged(peft_model: nn.Module) -> list[MergedLora]:
    forwards = [layer.forward for layer in _lora_layers(peft_model)]  # type: ignore[attr-defined]
    return [forward for forward in forwards if isinstance(forward, MergedLora)]


def rounded_copies(peft_model: nn.Module) -> list[Tensor]:
    """What :meth:`MergedLora.rounded` has made, whose places a captured graph knows."""
    return [own for merged in _merged(peft_model) for own in merged._pair]


def adapted_weights(peft_model: nn.Module) -> list[Tensor]:
    """The frozen weights that have adapters."""
    return [layer.get_base_layer().weight for layer in _lora_layers(peft_model)]  # type: ignore[misc]


@contextmanager
def added(peft_model: PeftModel) -> Iterator[None]:
    """Adapters added into the weights, which afterwards are the very same again, where and as they lay."""
    layers, weights = _lora_layers(peft_model), adapted_weights(peft_model)
    frozen = [weight.data for weight in weights]
    try:
        with torch.no_grad():
            for layer, weight in zip(layers, weights, strict=True):
                delta: Tensor = layer.get_delta_weight("default")  # type: ignore[attr-defined]
                weight.data = torch.add(weight.data, delta, out=torch.empty_like(weight.data))  # laid out as before
        with peft_model.disable_adapter():
            yield
    finally:
        for weight, data in zip(weights, frozen, strict=True):
            weight.data = data
