"""Small random models of many architectures, and float64 all the way through them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from torch.overrides import TorchFunctionMode
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from grade_lightning.models.policy import Policy
from tests.conftest import SHAPE, make_noisy, make_policy

SIZES = {"vocab_size": SHAPE.vocab_size, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
GROUPED = {**SIZES, "num_key_value_heads": 1}
WIDE_HEADS = {**GROUPED, "head_dim": 24}
OLD = {"vocab_size": SHAPE.vocab_size, "n_embd": 32, "n_layer": 2, "n_head": 2}
WINDOW = {"sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}  # far shorter than prompt and completion
CAPS = {"final_logit_softcapping": 2.0, "attn_logit_softcapping": 1.5}  # so low that they matter to logits of size 5

# Two ends, or attention, that are more than two plain matrices and a softmax.
SCALED: dict[str, dict[str, Any]] = {
    "Gemma": WIDE_HEADS,
    "Gemma2": {**WIDE_HEADS, **WINDOW, **CAPS, "query_pre_attn_scalar": 24},
    "Gemma3Text": {**WIDE_HEADS, **WINDOW, "query_pre_attn_scalar": 24},
    "Granite": {**GROUPED, "embedding_multiplier": 3.0, "logits_scaling": 0.7, "residual_multiplier": 0.8, "attention_multiplier": 0.3},
    "Cohere": {**GROUPED, "logit_scale": 1.3},
    "Cohere2": {**GROUPED, **WINDOW, "logit_scale": 1.3},
}
# Architectures without projections of Llama's names, and what gets adapters.
OTHER: dict[str, tuple[dict[str, Any], set[str]]] = {
    "Phi3": (GROUPED, {"qkv_proj", "o_proj"}),
    "OPT": ({**SIZES, "word_embed_proj_dim": 32, "ffn_dim": 64}, {"q_proj", "v_proj"}),
    "Phi": (SIZES, {"q_proj", "v_proj", "fc1", "fc2"}),
    "GPTJ": ({**OLD, "rotary_dim": 8}, {"q_proj", "v_proj"}),
    "GPTNeo": (
        {"vocab_size": 320, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "attention_types": [[["global", "local"], 1]],
         "window_size": 5},
        {"q_proj", "v_proj"},
    ),
    "GPTBigCode": (OLD, {"c_attn"}),
    "CodeGen": ({**OLD, "n_head": 4, "rotary_dim": 4}, {"qkv_proj"}),
    "Falcon": (SIZES, {"query_key_value"}),
    "Bloom": ({"vocab_size": 320, "hidden_size": 32, "n_layer": 2, "n_head": 2}, {"query_key_value"}),
    "GPT2": (OLD, {"c_attn", "c_proj"}),
    "GPTNeoX": (SIZES, {"query_key_value", "dense"}),
    "Mpt": ({"vocab_size": 320, "d_model": 32, "n_layers": 2, "n_heads": 2}, {"Wqkv"}),
}  # fmt: skip
USUAL: dict[str, dict[str, Any]] = {
    "Mistral": {**GROUPED, "sliding_window": 5}, "Llama": GROUPED, "Qwen2": GROUPED, "Qwen3": WIDE_HEADS, "StableLm": GROUPED,
    "Olmo2": GROUPED,
}  # fmt: skip
MODELS = {**SCALED, **{name: options for name, (options, _) in OTHER.items()}, **USUAL}


class Wide(TorchFunctionMode):
    """Inside, what is float64 stays so where transformers computes norms and softmaxes in fp32 whatever the model's dtype."""

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None) -> Any:
        options = dict(kwargs or {})
        if func in (Tensor.matmul, Tensor.__matmul__) and args[0].dtype != args[1].dtype:  # positions and frequencies
            return func(args[0].double(), args[1].double())
        if args and isinstance(args[0], Tensor) and args[0].dtype == torch.float64:
            if func is Tensor.float:
                return args[0]
            if func is Tensor.to:
                args = tuple(torch.float64 if argument is torch.float32 else argument for argument in args)
            if options.get("dtype") is torch.float32:
                options["dtype"] = torch.float64
        return func(*args, **options)


def save_family(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Path:
    """A model of the family, its random weights large enough that attention and logits are far from uniform."""
    config = getattr(transformers, f"{name}Config")(**{**MODELS.get(name, {}), "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
                                                       **options})  # fmt: skip
    make_noisy(AutoModelForCausalLM.from_config(config)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def policy_of(name: str, folder: Path, tokenizer: PreTrainedTokenizerBase, **options: Any) -> Policy:
    return make_policy(save_family(name, folder, tokenizer), **options)[1]
