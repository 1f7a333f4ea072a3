"""Which layers get adapters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGETS
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

# All attention projections (the paper's choice), by what they are called: first by architecture, then wherever all names are found.
_BY_ARCHITECTURE = {"gpt2": ["attn.c_attn", "attn.c_proj"], "gpt_neox": ["query_key_value", "attention.dense"]}
_PROJECTIONS = (["q_proj", "k_proj", "v_proj", "o_proj"], ["qkv_proj", "o_proj"])


def _matrices(model: PreTrainedModel) -> Iterator[str]:
    """Names of the modules with a matrix of weights."""
    return (name for name, module in model.named_modules() if hasattr(module, "weight") and module.weight.dim() == 2)


def _linear(model: PreTrainedModel) -> list[str]:
    """Last parts of the names of linear layers between embeddings and output head."""
    head = model.get_output_embeddings()
    layers = (name for name, module in model.named_modules() if isinstance(module, nn.Linear | Conv1D) and module is not head)
    return sorted({name.rsplit(".", 1)[-1] for name in layers})


def _default(model: PreTrainedModel, name: str) -> list[str]:
    kind, names = model.config.model_type, list(_matrices(model))
    if kind in _BY_ARCHITECTURE:
        return _BY_ARCHITECTURE[kind]
    for projections in _PROJECTIONS:
        if all(any(layer.endswith(target) for layer in names) for target in projections):
            return projections
    known = PEFT_TARGETS.get(kind)
    if isinstance(known, list):
        return known
    raise ValueError(
        f"neither this program nor PEFT knows the attention projections of {name} ({kind}): set model.lora.target_modules to some of "
        f"its linear layers {_linear(model)}"
    )


def lora_targets(model: PreTrainedModel, name: str, wanted: Sequence[str] | None) -> list[str]:
    """Ends of the names of layers that get adapters.

    Args:
        model: the base language model.
        name: of the model, for messages.
        wanted: ``model.lora.target_modules``; None = all attention projections, or where their names are not known, the layers that
            PEFT chooses for the architecture.

    Raises:
        ValueError: no default for this architecture, no such layers, or embeddings or output head among them.
    """
    targets = list(wanted) if wanted else _default(model, name)
    ends = {id(model.get_input_embeddings()), id(model.get_output_embeddings())}
    held = [layer for layer, module in model.named_modules() if id(module) in ends and any(layer.endswith(target) for target in targets)]
    if held:
        raise ValueError(
            f"model.lora.target_modules has {held[0]} of {name}, but embeddings and output head stay fixed: name layers between them"
        )
    missing = [target for target in targets if not any(layer.endswith(target) for layer in _matrices(model))]
    if missing:
        raise ValueError(f"{name} has no layers {missing} for LoRA: set model.lora.target_modules to some of {_linear(model)}")
    return targets
