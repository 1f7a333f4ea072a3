"""The two ends of a language model: how token embeddings enter it, and how its states become logits."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel


def embedding_scale(embedding: nn.Module) -> Tensor | None:
    """What a table of embeddings multiplies its rows with (Gemma: sqrt(d)), in the dtype of the table; None = nothing.

    Models that scale what they are given instead (Granite) do so for ``inputs_embeds`` too, and need nothing here.
    """
    scale = getattr(embedding, "embed_scale", None)
    if scale is None:
        return None
    weight: Tensor = embedding.weight  # type: ignore[assignment]
    return torch.as_tensor(scale, dtype=weight.dtype, device=weight.device)


def _number(config: PreTrainedConfig, name: str) -> float | None:
    """A declared number that is not 0; some architectures keep a word under the same name (MPT), which they do not use."""
    value = getattr(config, name, None)
    return float(value) if isinstance(value, int | float) and value else None


class OutputHead:
    """Logits of states: ``softcap(scale * (W h + b))``, softcap(z) = c tanh(z / c) where the model declares a c.

    Everything that turns states into logits without the model's own forward pass does it here.  The scale is applied to states, which
    are smaller than logits.

    Args:
        lm: a causal language model; its output layer is used, not copied.

    Attributes:
        scale: of the logits (Granite divides by ``logits_scaling``, Cohere multiplies with ``logit_scale``).
        cap: c (Gemma 2: ``final_logit_softcapping``); None = no cap.
    """

    scale: float
    cap: float | None

    def __init__(self, lm: PreTrainedModel):
        config = lm.config.get_text_config()
        self.layer: nn.Module = lm.get_output_embeddings()  # type: ignore[assignment]
        self.scale = (_number(config, "logit_scale") or 1.0) / (_number(config, "logits_scaling") or 1.0)
        self.cap = _number(config, "final_logit_softcapping")

    @property
    def matrix(self) -> Tensor | None:
        """[V, d] W, where it is frozen and there is no b; else None."""
        plain = type(self.layer) is nn.Linear and self.layer.bias is None and not self.layer.weight.requires_grad
        return self.layer.weight if plain else None  # type: ignore[return-value]

    def scaled(self, hidden: Tensor) -> Tensor:
        """States whose products with W are logits before the cap.  [..., d] -> [..., d]."""
        return hidden if self.scale == 1.0 else hidden * self.scale

    def capped(self, logits: Tensor) -> Tensor:
        """[...] products -> [...] logits, in fp32 (fp64 stays fp64)."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] -> [..., V], in fp32 (fp64 stays fp64)."""
        return self.capped(self.layer(self.scaled(hidden)))

    def next_logits(self, hidden: Tensor) -> Tensor:
        """The same for the states of few rows, without gradients.  [B, d] -> [B, V]."""
        matrix = self.matrix
        if matrix is None or matrix.element_size() < 4 or matrix.device.type != "cpu":
            return self.logits(hidden)
        return self.capped((matrix @ self.scaled(hidden).T).T)  # the other way round it takes 1.2 to 1.5 times as long

    def slope(self, logits: Tensor) -> Tensor | None:
        """Slope of the cap where it gives these logits, [...] -> [...]; None where there is no cap."""
        return None if self.cap is None else 1.0 - (logits / self.cap).square()

    def pull_back(self, gradient: Tensor, slope: Tensor | None) -> Tensor:
        """Gradient in states of one in logits.

        Args:
            gradient: [N, V]; not needed afterwards.
            slope: [N, V] of :meth:`slope` at the logits.

        Returns:
            [N, d].

        Raises:
            ValueError: there is no :attr:`matrix`.
        """
        if self.matrix is None:
            raise ValueError("the output head is more than a frozen matrix: its gradient is autograd's")
        gradient = gradient if slope is None else gradient.mul_(slope)
        return self.scaled(gradient.to(self.matrix.dtype) @ self.matrix)
