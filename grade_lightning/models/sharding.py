"""Frozen layers of which each process holds a part (torch's FSDP2), adapters and all else whole."""

from __future__ import annotations

import logging

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

from grade_lightning.distributed import world
from grade_lightning.models.merged_lora import MergedLora

log = logging.getLogger(__name__)


def layers_of(backbone: nn.Module) -> nn.ModuleList:
    """The transformer's layers: its longest list of modules.

    Raises:
        ValueError: it has no list of modules.
    """
    lists = [module for module in backbone.modules() if isinstance(module, nn.ModuleList)]
    if not lists:
        raise ValueError("hardware.sharded: this model has no list of layers that could be shared out: use hardware=ddp")
    return max(lists, key=len)


def bytes_held(model: nn.Module) -> int:
    """Bytes of the parameters that this process keeps between passes."""
    held = (weight.to_local() if isinstance(weight, DTensor) else weight for weight in model.parameters())
    return sum(weight.numel() * weight.element_size() for weight in held)


def share_out(lm: nn.Module, backbone: nn.Module) -> None:
    """Share the frozen weights of each layer out over all processes.

    A layer is whole while a pass is in it, and in parts again afterwards.  Embeddings, output head and final norm stay whole: they are
    read by rows, in numbers that differ from process to process.  So do adapters, whose gradients the methods manage by hand.

    Args:
        lm: a frozen model with LoRA layers, the same in every process.
        backbone: the transformer inside.
    """
    MergedLora.remove(lm)  # a merged weight lives until the backward pass, which would keep every layer whole
    before, weight = bytes_held(lm), next(lm.parameters())
    mesh = init_device_mesh(weight.device.type, (world()[1],))
    for layer in layers_of(backbone):
        for frozen in layer.parameters():
            if not frozen.requires_grad:
                frozen.data = frozen.data.contiguous()  # FSDP2 takes no other layout
        adapters = {own for own in layer.parameters() if own.requires_grad}
        fully_shard(layer, mesh=mesh, reshard_after_forward=True, ignored_params=adapters)
    if weight.device.type == "cuda":
        torch.cuda.empty_cache()
    log.info("parameters: this process holds %.1f MB of %.1f MB", bytes_held(lm) / 1e6, before / 1e6)
