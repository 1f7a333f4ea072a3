"""What an update must cost at least on the machine at hand, and what Table 1 would cost at the measured speed.

A rollout reads all weights once a token, whatever the batch: bytes over bandwidth.  Everything else is products over all tokens at
once: floating-point operations over the machine's rate.  Bandwidth and rate are measured here by a large copy and a large product.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from experiments.benchmarks import clock
from experiments.benchmarks.setting import PROMPT_TOKENS, Setting, config_of
from grade_lightning.settings.methods import PPOSettings
from grade_lightning.training.memory import Batch, Shape, estimate

LORA_RANK = 16  # Policy's default
PAPER_STEPS = 250  # policy steps of protocol=paper


def peaks(device: str, precision: str) -> tuple[float, float]:
    """Bytes a second that a copy moves (read and written) and operations a second of a square product."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    size, width = (2**28, 8192) if device == "cuda" else (2**25, 2048)
    source, target = (torch.zeros(size, dtype=dtype, device=device) for _ in range(2))
    copied = min(clock.seconds(lambda: target.copy_(source), device, rounds=5))
    left, right = (torch.randn(width, width, device=device).to(dtype) for _ in range(2))
    return 2 * source.nbytes / copied, 2 * width**3 / min(clock.seconds(lambda: left @ right, device, rounds=5))


def weights(setting: Setting) -> tuple[int, int]:
    """Of the layers, and of the output head, which is the table of embeddings too."""
    shape = Shape.of(config_of(setting))
    head = shape.vocab_size * shape.hidden_size
    return shape.weights - head, head


def estimated_memory(setting: Setting, case: str) -> float:
    """Bytes on top of the base's weights that a run is told it needs before it starts."""
    parts = estimate(
        Shape.of(config_of(setting)), Batch(setting.rows, PROMPT_TOKENS, setting.new_tokens), precision=setting.precision,
        lora_rank=LORA_RANK, graphs=2 if case == "adjoint" else 1, checkpointing=setting.checkpointing,
    )  # fmt: skip
    return sum(parts.values()) - parts["base weights"]


def floor(setting: Setting, case: str, hops: float | None, bandwidth: float, rate: float) -> dict[str, float]:
    """Least seconds of an update: of the rollout's weights and of the products, forwards and backwards, that the method needs.

    A forward pass is 2 operations a weight and token, a backward pass towards embeddings or adapters another 2.
    """
    layers, head = weights(setting)
    everything, new = setting.rows * (PROMPT_TOKENS + setting.new_tokens), setting.rows * setting.new_tokens
    epochs = PPOSettings().epochs if case == "ppo" else 1
    passes = 2 * everything  # reward with reference, policy
    if case == "adjoint":
        passes += new + (hops or 0) * new + everything  # back through reward and reference, the series, the weights
        vocabulary = 4 * new  # KL: both logits and both gradients
    else:
        passes += (2 * epochs - 1) * everything
        vocabulary = (1 + 2 * epochs) * new
    element = 2 if setting.precision == "bf16" else 4
    read = setting.new_tokens * (layers + head) * element / bandwidth
    return {"rollout": read, "products": 2 * (layers * passes + head * vocabulary) / rate}


def fractions(
    medians: dict[str, dict[str, Any]], settings: dict[str, tuple[str, Setting]], bandwidth: float, rate: float
) -> dict[str, Any]:
    """For each case: least seconds, the share of them in what was measured, tokens a second, the memory foreseen."""
    found: dict[str, Any] = {"bytes_per_second": bandwidth, "operations_per_second": rate, "cases": {}}
    for name, (case, setting) in settings.items():
        if name in medians and case in ("adjoint", "reinforce", "rloo", "ppo"):
            least, seconds = floor(setting, case, medians[name]["hops"], bandwidth, rate), medians[name]["seconds"]
            tokens = setting.rows * setting.new_tokens / seconds
            found["cases"][name] = {**least, "achieved": sum(least.values()) / seconds, "tokens_per_second": tokens,
                                    "estimated_memory": estimated_memory(setting, case)}  # fmt: skip
    return found


def table1_hours(seconds: Mapping[str, float], methods: Sequence[str]) -> float | None:
    """Hours of training for the paper's four methods and one seed; evaluation comes on top.  None where one was not measured.

    Args:
        seconds: of an update, by name.
        methods: the four names.
    """
    return sum(seconds[name] for name in methods) * PAPER_STEPS / 3600 if all(name in seconds for name in methods) else None
