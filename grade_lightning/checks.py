"""Everything that can be refused before long work starts."""

from __future__ import annotations

import logging

import torch

log = logging.getLogger(__name__)


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bf16 rather than emulating it."""
    supported = [getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    arm = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")().startswith("SVE")
    return arm or any(bool(check()) for check in supported)


def check_hardware(accelerator: str, precision: str) -> None:
    """Raise ValueError where this machine cannot do what the hardware group says."""
    if accelerator not in ("cpu", "cuda"):
        raise ValueError(f"hardware.accelerator={accelerator} is unknown: use cpu, cuda or auto")
    if precision not in ("fp32", "bf16"):
        raise ValueError(f"hardware.precision={precision} is unknown: use fp32 or bf16")
    if accelerator == "cuda" and not torch.cuda.is_available():
        raise ValueError("this hardware group needs a CUDA GPU and torch sees none: use hardware=cpu, or install a CUDA build of torch")
    if accelerator == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported():
        raise ValueError("this GPU has no bf16: add hardware.precision=fp32")
    if accelerator == "cpu" and precision == "bf16" and not cpu_has_bf16():
        raise ValueError("this CPU has no bf16 arithmetic and would emulate it slowly: add hardware.precision=fp32")


def check_gradient_cosine(every: int, *, relaxed: bool, processes: int) -> None:
    """Raise ValueError where there is no straight-through gradient to watch, or more than one process to watch it in."""
    if every < 0:
        raise ValueError(f"evaluation.gradient_cosine_every must be at least 0, got {every}")
    if every and not relaxed:
        raise ValueError("evaluation.gradient_cosine_every watches GRADE's gradient: leave it at 0 for other methods")
    if every and processes > 1:
        raise ValueError("evaluation.gradient_cosine_every works in a single process: leave it at 0 with hardware=ddp")


def check_processes(processes: int, *, distributed: bool) -> None:
    """Raise ValueError where the hardware group and the way the command was started disagree."""
    if processes > 1 and not distributed:
        raise ValueError(f"{processes} processes were started, and this hardware group uses one: add hardware=ddp")


def check_run(
    *, max_steps: int, effective_batch_size: int, grad_accumulation: int, validate_every: int, checkpoint_every: int,
    completions_per_prompt: int, processes: int = 1, chunks: int = 1,
) -> None:  # fmt: skip
    """Raise ValueError for counts that cannot work.

    Args:
        chunks: equal parts with whole prompts that the method cuts a batch into.
    """
    counts = {
        "max_steps": max_steps,
        "effective_batch_size": effective_batch_size,
        "hardware.grad_accumulation": grad_accumulation,
        "evaluation.validate_every": validate_every,
        "run.checkpoint_every": checkpoint_every,
    }
    for name, value in counts.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    if effective_batch_size < processes:
        raise ValueError(f"effective_batch_size={effective_batch_size} cannot be split over {processes} processes: raise it or start fewer")
    if effective_batch_size % completions_per_prompt:
        raise ValueError(
            f"effective_batch_size={effective_batch_size} completions cannot be {completions_per_prompt} of each prompt: "
            "make it a multiple of method.completions_per_prompt"
        )
    if effective_batch_size % (chunks * completions_per_prompt):
        raise ValueError(
            f"this method weighs {chunks} parts of a batch by each other: effective_batch_size={effective_batch_size} must be a "
            f"multiple of {chunks * completions_per_prompt} ({chunks} x method.completions_per_prompt)"
        )
    if chunks > 1 and processes > 1:
        raise ValueError("this method weighs parts of one process' batch by each other: run it in a single process")
    if grad_accumulation > effective_batch_size:
        raise ValueError(
            f"hardware.grad_accumulation={grad_accumulation} cannot split {effective_batch_size} completions: "
            "lower it, or raise effective_batch_size"
        )


def check_evaluation(*, batch_size: int, val_prompts: int | None, test_prompts: int | None) -> None:
    """Raise ValueError for an evaluation without prompts."""
    for name, value in (("batch_size", batch_size), ("val_prompts", val_prompts), ("test_prompts", test_prompts)):
        if value is not None and value < 1:
            raise ValueError(f"evaluation.{name} must be at least 1, got {value} (null = all; evaluation.test=false skips the test split)")


def check_pretrained_vocabulary(vocab_size: int, top_k: int) -> None:
    """Raise ValueError before a base LM is pretrained that the rollout could not use."""
    if top_k > vocab_size:
        raise ValueError(f"rollout.top_k={top_k} is above the vocabulary size {vocab_size:,}: lower rollout.top_k")
