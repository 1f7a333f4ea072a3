"""Root mean square normalisation as one operation, where transformers writes it as eight."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALLOWED = {torch.bfloat16: 0.03, torch.float16: 4e-3}  # relative; other types 1e-4, since a norm may be computed in fp32


class FusedNorm:
    """Computes ``w x / sqrt(mean(x^2) + eps)``: one kernel on CUDA, forwards and backwards; on a CPU the same numbers at the same speed.

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

    def __call__(self, hidden_states: Tensor) -> Tensor:
        weight: Tensor = self.module.weight  # type: ignore[assignment]
        return F.rms_norm(hidden_states, weight.shape, weight, self.eps)


def _eps(module: nn.Module) -> float | None:
    """What a module that may be such a norm adds to the mean square; None = it is none."""
    weight = getattr(module, "weight", None)
    if not type(module).__name__.endswith("RMSNorm") or isinstance(module.forward, FusedNorm) or not isinstance(weight, Tensor):
        return None
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    return float(eps) if isinstance(eps, int | float) and weight.dim() == 1 and getattr(module, "bias", None) is None else None


@torch.no_grad()
def _same(module: nn.Module, eps: float) -> bool:
    """Whether the module's formula gives what the operation gives, for a few rows and weights."""
    weight, generator = module.weight, torch.Generator().manual_seed(0)
    width: int = len(weight)  # type: ignore[arg-type]
    rows, other = (torch.randn(*shape, width, generator=generator, device="cpu").to(weight.dtype) for shape in ((3,), ()))  # type: ignore[arg-type]
    twin = copy.copy(module)
    twin._parameters = {"weight": nn.Parameter(other)}
    found, expected = F.rms_norm(rows, other.shape, other, eps).double(), type(module).forward(twin, rows).double()
    return bool((found - expected).abs().max() <= ALLOWED.get(other.dtype, 1e-4) * expected.abs().max())
