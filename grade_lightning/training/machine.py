"""What this machine can do, asked before anything heavy is read."""

from __future__ import annotations

import torch

from grade_lightning.distributed import parts_of_each
from grade_lightning.settings import Settings
from grade_lightning.settings.problems import refuse
from grade_lightning.training.memory import Shape, check_memory, shape_of_model
from grade_lightning.training.strategy import process_of_torchrun


def cpu_has_bf16() -> bool:
    """Whether this CPU computes in bf16 rather than emulating it."""
    supported = [getattr(torch.cpu, name, lambda: False) for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")]
    arm = getattr(torch.backends.cpu, "get_cpu_capability", lambda: "")().startswith("SVE")
    return arm or any(bool(check()) for check in supported)


def check_device(accelerator: str, precision: str) -> None:
    """Raise ValueError where this machine cannot do what the hardware group says."""
    if accelerator == "cuda" and not torch.cuda.is_available():
        refuse("hardware.accelerator", "it needs a CUDA GPU and torch sees none: use hardware=cpu, or install a CUDA build of torch")
    if accelerator == "cuda" and precision == "bf16" and not torch.cuda.is_bf16_supported():
        refuse("hardware.precision", "this GPU has no bf16: add hardware.precision=fp32")
    if accelerator == "cpu" and precision == "bf16" and not cpu_has_bf16():
        refuse("hardware.precision", "this CPU has no bf16 arithmetic and would emulate it slowly: add hardware.precision=fp32")


def check_machine(settings: Settings, accelerator: str) -> None:
    """Raise ValueError for hardware that is not there, and for processes that were started and have nothing to do."""
    check_device(accelerator, settings.hardware.precision)
    processes = process_of_torchrun()[1]
    if settings.hardware.sharded:
        _check_sharded(settings, processes)
    if processes == 1:
        return
    if not settings.hardware.distributed:
        refuse("hardware.distributed", f"{processes} processes were started, and this hardware group uses one: add hardware=ddp")
    if settings.effective_batch_size < processes:
        refuse("effective_batch_size", f"it cannot be split over {processes} processes: raise it or start fewer")
    method = settings.method_settings
    whole = processes * parts_of_each(method.chunks, processes) * method.completions_per_prompt
    if method.chunks > 1 and settings.effective_batch_size % whole:
        refuse("effective_batch_size", f"each of {processes} processes needs whole parts of whole groups: make it a multiple of {whole}")
    if settings.evaluation.gradient_cosine_every:
        refuse("evaluation.gradient_cosine_every", "it works in a single process: leave it at 0 with hardware=ddp")


def _check_sharded(settings: Settings, processes: int) -> None:
    """Raise ValueError where processes could not make the same passes through the layers that they share."""
    if not settings.hardware.distributed:
        refuse("hardware.sharded", "it needs several processes: use hardware=fsdp")
    if getattr(settings.method_settings, "backprop", "adjoint") != "adjoint":
        reason = "token by token, gradients pass through keys and values, and shared layers do not come back for those"
        refuse("method.backprop", f"{reason}: leave it at adjoint, or use hardware=ddp")
    whole = processes * settings.method_settings.completions_per_prompt
    if settings.effective_batch_size % whole:
        refuse(
            "effective_batch_size",
            f"processes that share weights need as many whole groups each: make it a multiple of {whole}",
        )


def check_shape(settings: Settings, accelerator: str, *, prompt_tokens: int | None = None) -> None:
    """Raise ValueError where vocabulary, positions or size of the model do not suit the settings; where its configuration cannot be had
    now, loading the model will say why.

    Args:
        prompt_tokens: of the longest prompt; as many as are allowed if None.
    """
    prompt_tokens = settings.data.prompt.max_tokens if prompt_tokens is None else prompt_tokens
    hardware, model, processes = settings.hardware, settings.model, process_of_torchrun()[1]
    if model.pretrain is not None:
        shape: Shape | None = Shape.of_recipe(model.pretrain)
    else:
        assert model.path is not None
        shape = shape_of_model(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if shape is None:
        return
    settings.rollout.check(shape.vocab_size)
    if settings.evaluation.sampling.top_k > shape.vocab_size:
        refuse("evaluation.sampling.top_k", f"it is above the vocabulary size {shape.vocab_size:,}: lower it")
    longest = prompt_tokens + settings.max_new_tokens
    if shape.positions and longest > shape.positions:
        refuse(
            "max_new_tokens",
            f"prompt and completion of {longest:,} tokens exceed the model's {shape.positions:,} positions: lower it, or "
            "data.prompt.max_tokens",
        )
    check_memory(
        shape, rows=-(-settings.effective_batch_size // processes), accumulation=hardware.grad_accumulation,
        prompt_tokens=prompt_tokens, new_tokens=settings.max_new_tokens, precision=hardware.precision,
        lora_rank=model.lora.r, graphs=2 if settings.method_settings.relaxed else 1, top_k=settings.rollout.top_k,
        accelerator=accelerator, checkpointing=hardware.activation_checkpointing,
    )  # fmt: skip
