"""Root mean square normalisation as one operation, where transformers writes it as eight."""

from __future__ import annotations

import copy
import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALLOWED = {torch.bfloat16: 0.03, torch.float16: 4e-3}  # relative; other types 1e-4, since a norm may be computed in fp32


class FusedNorm:
    """Computes ``w x / sqrt(mean(x^2) + eps)``: one kernel on CUDA, forwards and backwards, that rounds once; on a CPU as fast as before,
    in fp32 with the same numbers.

    A step of decoding is hundreds of operations too small to fill a processor, and norms are a third of them.
    """

    def __init__(self, module: nn.Module, eps: float):
        self.module, self.eps, self.apart = module, eps, module.forward

    @classmethod
    def install(cls, lm: nn.Module) -> None:
        """Let every norm of this kind compute this way; those that are something else, like Gemma's with its 1 + w, stay as they are."""
        for module in lm.modules():
            eps = _eps(module)
            if eps is not None and _same(module, eps):
                module.forward = cls(module, eps)  # type: ignore[method-assign,assignment]

    @staticmethod
    def remove(lm: nn.Module) -> None:
        """Give every norm its own forward back."""
        for module in lm.modules():
            if isinstance(module.forward, FusedNorm):
                module.forward = module.forward.apart

    def __call__(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        (x,) = (*args, *kwargs.values())  # called hidden_states by some, x by others
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        if x.dtype != weight.dtype:
            found: Tensor = self.apart(x)
            return found
        return F.rms_norm(x, weight.shape, weight, self.eps)


def _eps(module: nn.Module) -> float | None:
    """What a module that may be such a norm adds to the mean square; None = it is none."""
    weight, forward = getattr(module, "weight", None), type(module).forward
    if not type(module).__name__.endswith("RMSNorm") or isinstance(module.forward, FusedNorm) or not isinstance(weight, Tensor):
        return None
    if len(inspect.signature(forward).parameters) != 2 or weight.dim() != 1 or getattr(module, "bias", None) is not None:
        return None
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(eps) if isinstance(eps, int | float) else None


@torch.no_grad()
def _same(module: nn.Module, eps: float) -> bool:
    """Whether the module's formula gives what the operation gives, for rows like any and for some so small that eps decides."""
    weight, generator = module.weight, torch.Generator().manual_seed(0)
    width: int = len(weight)  # type: ignore[arg-type]
    rows, other = (torch.randn(*shape, width, generator=generator, device="cpu").to(weight.dtype) for shape in ((4,), ()))  # type: ignore[arg-type]
    rows[2:] *= eps**0.5
    twin = copy.copy(module)
    twin._parameters = {"weight": nn.Parameter(other)}
    found, expected = F.rms_norm(rows, other.shape, other, eps).double(), type(module).forward(twin, rows).double()
    return bool((found - expected).abs().max() <= ALLOWED.get(other.dtype, 1e-4) * expected.abs().max())
