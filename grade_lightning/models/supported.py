"""Which architectures can be a policy: keys and values as the only state between tokens, and two ends as :mod:`.ends` describes them."""

from __future__ import annotations

import inspect

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import LinearAttentionCacheLayerMixin

from grade_lightning.models.ends import OutputHead, embedding_scale

SUPPORTED = (
    "use a decoder with attention alone, such as Qwen3, Llama, Mistral, Gemma, Gemma 2, Gemma 3 (text), Granite, Cohere, Phi-3, GPT-2, "
    "GPT-NeoX or OPT"
)


def backbone(model: PreTrainedModel) -> nn.Module:
    """The transformer without its language-model head."""
    return getattr(model, model.base_model_prefix)


def check_config(config: PreTrainedConfig, path: str) -> None:
    """Refuse what the configuration alone tells, before any weight is read.

    Raises:
        ValueError: layers that keep a state other than keys and values, or that read tokens past their embeddings.
    """
    text = config.get_text_config()
    kept = {type(layer) for layer in DynamicCache(config=text).layers}
    if any(issubclass(layer, LinearAttentionCacheLayerMixin) for layer in kept):
        raise ValueError(_recurrent(config, path))
    if getattr(text, "hidden_size_per_layer_input", None):
        raise ValueError(
            f"{path} ({config.model_type}) has layers that look tokens up in tables of their own, where a relaxed token has no place; "
            f"this is not supported: {SUPPORTED}"
        )


def check_model(model: PreTrainedModel, path: str) -> None:
    """Refuse what only the model tells.

    Raises:
        ValueError: a recurrent state that its configuration does not declare; no way in for embeddings and positions; embeddings or logits
            that are changed in a way not known here; tokens that see later ones, or that are read otherwise behind padding or a cache.
    """
    if getattr(model, "_is_stateful", False):
        raise ValueError(_recurrent(model.config, path))
    kind, accepted = model.config.model_type, inspect.signature(backbone(model).forward).parameters
    missing = [name for name in ("inputs_embeds", "position_ids", "past_key_values") if name not in accepted]
    if missing and not any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in accepted.values()):
        raise ValueError(f"{path} ({kind}) takes no {', '.join(missing)}, which relaxed tokens and padding need: {SUPPORTED}")
    states = _check_ends(model, path)
    _check_context(model, path, states)


def _recurrent(config: PreTrainedConfig, path: str) -> str:
    # Rollouts are padded on the left, share the state of a prompt between passes, and take parts of it: keys and values allow that.
    return (
        f"{path} ({config.model_type}) has layers that keep a running state instead of keys and values (state-space, convolution or "
        f"linear-attention layers), which is not supported: {SUPPORTED}"
    )


def _few_embeddings(model: PreTrainedModel) -> tuple[Tensor, Tensor]:
    """[1, 4] ids and their embeddings [1, 4, d]."""
    table: nn.Module = model.get_input_embeddings()  # type: ignore[assignment]
    ids = torch.arange(4, device=model.device)[None] % model.config.get_text_config().vocab_size
    embeds, scale = F.embedding(ids, table.weight), embedding_scale(table)  # type: ignore[arg-type]
    return ids, embeds if scale is None else embeds * scale


def _differ(found: Tensor, expected: Tensor) -> bool:
    """Whether they differ by more than rounding; what 16 bits hold is rounded in another order here."""
    allowed = 0.03 if expected.element_size() < 4 else 1e-4
    return bool((found.double() - expected.double()).abs().max() > allowed * expected.abs().max())


@torch.no_grad()
def _check_ends(model: PreTrainedModel, path: str) -> Tensor:
    """Whether embeddings go in and states become logits as :mod:`.ends` has it.  -> states [1, 4, d]."""
    ids, embeds = _few_embeddings(model)
    states: Tensor = backbone(model)(inputs_embeds=embeds).last_hidden_state
    if _differ(OutputHead(model).logits(states), model(input_ids=ids).logits):
        raise ValueError(
            f"{path} ({model.config.model_type}) changes its embeddings or its logits in a way that is not known here, which is not "
            f"supported: {SUPPORTED}"
        )
    return states


@torch.no_grad()
def _check_context(model: PreTrainedModel, path: str, states: Tensor) -> None:
    """Whether the first three of four tokens have the same states without the fourth, behind padding, the third read from a cache."""
    _, embeds = _few_embeddings(model)
    padded = torch.cat([embeds[:, :1], embeds[:, :1], embeds[:, :2]], dim=1)
    mask, places = (torch.tensor(values, device=embeds.device) for values in ([[0, 0, 1, 1, 1]], [[0, 0, 0, 1, 2]]))
    cache = DynamicCache()
    parts = []
    for part, at in ((padded, slice(0, 4)), (embeds[:, 2:3], slice(4, 5))):
        output = backbone(model)(
            inputs_embeds=part, attention_mask=mask[:, : at.stop], position_ids=places[:, at], past_key_values=cache, use_cache=True
        )
        parts.append(output.last_hidden_state)
    if _differ(torch.cat(parts, dim=1)[:, 2:], states[:, :3]):
        raise ValueError(
            f"{path} ({model.config.model_type}) reads a token otherwise where padding stands before it, where a later token follows, or "
            f"from a cache, which is not supported: {SUPPORTED}"
        )
