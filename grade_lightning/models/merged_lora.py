"""A linear layer and its LoRA adapter as one product."""

from __future__ import annotations

from typing import Any

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

    @classmethod
    def install(cls, peft_model: nn.Module) -> None:
        """Let every LoRA layer of a model with the one adapter ``default`` compute this way."""
        for module in peft_model.modules():
            if isinstance(module, LoraLayer):
                module.forward = cls(module)  # type: ignore[method-assign,assignment]

    @staticmethod
    def remove(peft_model: nn.Module) -> None:
        """Give every LoRA layer PEFT's own forward back."""
        for module in peft_model.modules():
            if isinstance(module, LoraLayer) and isinstance(module.forward, MergedLora):
                module.forward = module.forward.apart  # type: ignore[method-assign]

    def __call__(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        layer = self.layer
        base = layer.get_base_layer()
        weight: Tensor = base.weight  # type: ignore[assignment]
        pays = x.numel() // x.shape[-1] >= x.shape[-1]
        if layer.disable_adapters and not layer.merged:
            return base(x, *args, **kwargs)  # past PEFT's checks of its arguments, which take longer than a small product
        if layer.disable_adapters or weight.element_size() < 4 or not pays or self._drops():
            return self.apart(x, *args, **kwargs)
        delta = layer.get_delta_weight("default").to(weight.dtype)  # type: ignore[attr-defined]
        return functional_call(base, {"weight": weight + delta}, (x,))

    def _drops(self) -> bool:
        dropout = self.layer.lora_dropout["default"]
        return isinstance(dropout, KeyedDropout) and dropout.active
