"""How much memory a run will need, before anything is loaded."""

from __future__ import annotations

import logging
import resource
import sys
from dataclasses import dataclass

import psutil
import torch
from transformers import AutoModelForCausalLM, PreTrainedConfig

from grade_lightning.chain.chunks import CHUNK_ELEMENTS
from grade_lightning.models.base import load_config
from grade_lightning.settings.model import PretrainSettings

log = logging.getLogger(__name__)

BYTES = {"fp32": 4, "bf16": 2}
GIB = 1 << 30


@dataclass(frozen=True)
class Shape:
    """What is asked of a model before it is loaded: sizes of its transformer, number of weights, positions (0 = not declared)."""

    weights: int
    vocab_size: int
    hidden_size: int
    mlp_size: int
    layers: int
    kv_size: int
    positions: int = 0

    @classmethod
    def of(cls, config: PreTrainedConfig) -> Shape:
        """From a transformers configuration; no weights are made."""
        text = config.get_text_config()
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config)
        hidden, heads = text.hidden_size, text.num_attention_heads
        kv_heads = getattr(text, "num_key_value_heads", None) or heads
        head_size = getattr(text, "head_dim", None) or hidden // heads
        mlp = getattr(text, "intermediate_size", None) or 4 * hidden
        weights, positions = sum(p.numel() for p in model.parameters()), getattr(text, "max_position_embeddings", None) or 0
        return cls(weights, text.vocab_size, hidden, mlp, text.num_hidden_layers, kv_heads * head_size, positions)

    @classmethod
    def of_recipe(cls, settings: PretrainSettings) -> Shape:
        """Of a model that is made here."""
        from grade_lightning.models.pretraining import model_config

        return cls.of(model_config(settings))


@dataclass(frozen=True)
class Batch:
    """Completions of one micro-batch and their longest lengths in tokens."""

    rows: int
    prompt_tokens: int
    new_tokens: int


def estimate(
    shape: Shape, batch: Batch, *, precision: str, lora_rank: int, graphs: int, checkpointing: bool = False, recorded: int = 0
) -> dict[str, float]:
    """Bytes by purpose; rough, meant to be within a factor of two.

    Args:
        checkpointing: only the inputs of layers are kept, and one layer whole.
        recorded: candidates that the whole effective batch records: rows x tokens x top-k.
        graphs: passes whose activations are kept at once: 2 for relaxed methods (policy, frozen reward), 1 for policy gradients.
    """
    size, tokens = BYTES[precision], batch.rows * (batch.prompt_tokens + batch.new_tokens)
    # Kept by a layer for its backward pass: norms, projections, attention (about 12 d), gate, up, product (4 m), LoRA in fp32 (4 d).
    layer = size * (12 * shape.hidden_size + 4 * shape.mlp_size) + 4 * 4 * shape.hidden_size
    kept = shape.layers * size * shape.hidden_size + layer if checkpointing else shape.layers * layer
    logits = min(batch.rows * batch.new_tokens * shape.vocab_size, CHUNK_ELEMENTS)
    adapters = lora_rank * shape.layers * 4 * 2 * shape.hidden_size
    return {
        "base weights": float(shape.weights * size),
        "adapters and optimizer": 4.0 * 4 * adapters,
        "KV cache": 2.0 * shape.layers * shape.kv_size * tokens * size,
        "activations": float(graphs * kept * tokens),
        "logits": 4.0 * 8 * logits,
        "candidates": 24.0 * recorded,  # noise, ids, support, and one relaxed weight with its gradient
    }


def peak(accelerator: str) -> int:
    """Most bytes that this process has held at once: on the GPU, or resident in main memory."""
    if accelerator == "cuda":
        return torch.cuda.max_memory_allocated()
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def available(accelerator: str) -> int:
    """Free bytes on the device."""
    return torch.cuda.mem_get_info()[0] if accelerator == "cuda" else psutil.virtual_memory().available


def check_memory(
    shape: Shape, *, rows: int, accumulation: int, prompt_tokens: int, new_tokens: int, precision: str, lora_rank: int, graphs: int,
    accelerator: str, checkpointing: bool = False, top_k: int = 0,
) -> None:  # fmt: skip
    """Print the estimate; raise ValueError with the setting that would fit where it exceeds what is free."""

    def needed(parts: int) -> dict[str, float]:
        batch = Batch(-(-rows // parts), prompt_tokens, new_tokens)
        return estimate(
            shape, batch, precision=precision, lora_rank=lora_rank, graphs=graphs, checkpointing=checkpointing,
            recorded=rows * new_tokens * top_k,
        )  # fmt: skip

    free, parts = available(accelerator), needed(accumulation)
    total = sum(parts.values())
    shares = ", ".join(f"{name} {value / GIB:.1f}" for name, value in parts.items() if value > 0.05 * total)
    log.info("memory: about %.1f GiB needed (%s), %.1f GiB free on the %s", total / GIB, shares, free / GIB, accelerator)
    if total <= free:
        return
    fitting = [n for n in (1, 2, 4, 8, 16, 32, 64) if accumulation < n <= rows and sum(needed(n).values()) <= free]
    if fitting:
        remedy = f"add hardware.grad_accumulation={fitting[0]} (the same update from smaller micro-batches)"
    elif precision == "fp32" and shape.weights * 2 < free:
        remedy = "add hardware.precision=bf16 where the device has it (hardware=a100, hardware=h200), or choose a smaller model"
    else:
        remedy = "choose a smaller model (model=qwen3_0_6b, model=tiny) or a device with more memory (hardware=a100, hardware=h200)"
    raise ValueError(f"this run needs about {total / GIB:.1f} GiB and {free / GIB:.1f} GiB are free on the {accelerator}: {remedy}")


def shape_of_model(path: str, *, revision: str | None, trust_remote_code: bool) -> Shape | None:
    """Shape of a folder's or a hub id's model; None where transformers cannot make one of its configuration (loading will say why).

    Raises:
        ValueError: there is no such model, here or within reach.
    """
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    try:
        return Shape.of(config)
    except (OSError, ValueError) as error:
        log.info("no memory estimate for %s: %s", path, str(error).splitlines()[0])
        return None
