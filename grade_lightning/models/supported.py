"""Which architectures can be a policy: keys and values as the only state between tokens, plain embeddings and a plain output head."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

SUPPORTED = (
    "use a model with attention alone, plain embeddings and a plain output head, such as Qwen3, Llama, Mistral, GPT-2, GPT-NeoX or OPT"
)


def backbone(model: PreTrainedModel) -> nn.Module:
    """The transformer without its language-model head."""
    return getattr(model, model.base_model_prefix)


def check_config(config: PreTrainedConfig, path: str) -> None:
    """Refuse what the configuration alone tells, before any weight is read.

    Raises:
        ValueError: layers that keep a state other than keys and values, or capped logits.
    """
    text = config.get_text_config()
    kept = {type(layer) for layer in DynamicCache(config=text).layers}
    if any(issubclass(layer, LinearAttentionCacheLayerMixin) for layer in kept):
        raise ValueError(_recurrent(config, path))
    caps = [name for name in ("final_logit_softcapping", "attn_logit_softcapping") if getattr(text, name, None) is not None]
    if caps:
        raise ValueError(f"{path} ({config.model_type}) caps its logits ({', '.join(caps)}), which is not supported: {SUPPORTED}")


def check_model(model: PreTrainedModel, path: str) -> None:
    """Refuse what only the model tells.

    Raises:
        ValueError: a recurrent state that its configuration does not declare, scaled embeddings, scaled or capped logits.
    """
    if getattr(model, "_is_stateful", False):
        raise ValueError(_recurrent(model.config, path))
    _check_head(model, path)


def _recurrent(config: PreTrainedConfig, path: str) -> str:
    # Rollouts are padded on the left, share the state of a prompt between passes, and take parts of it: keys and values allow that.
    return (
        f"{path} ({config.model_type}) has layers that keep a running state instead of keys and values (state-space, convolution or "
        f"linear-attention layers), which is not supported: {SUPPORTED}"
    )


@torch.no_grad()
def _check_head(model: PreTrainedModel, path: str) -> None:
    """Embeddings go in and hidden states become logits by the plain matrices."""
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    expected = model(input_ids=ids).logits
    embeds = F.embedding(ids, model.get_input_embeddings().weight)  # type: ignore[arg-type]
    hidden = backbone(model)(inputs_embeds=embeds).last_hidden_state
    logits: Tensor = model.get_output_embeddings()(hidden)
    if not torch.allclose(logits.float(), expected.float(), rtol=1e-3, atol=1e-3):
        raise ValueError(
            f"{path} ({model.config.model_type}) scales its embeddings, or scales or caps its logits, which is not supported: {SUPPORTED}"
        )
