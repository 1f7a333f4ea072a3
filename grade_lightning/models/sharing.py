"""One copy of frozen weights that two models have in common."""

from __future__ import annotations

import logging

import torch
from torch import nn

log = logging.getLogger(__name__)


def share_frozen(other: nn.Module, base: nn.Module) -> int:
    """Make parameters of ``other`` those of ``base``, in memory, where names, values and dtype are the same.

    A classifier made from the policy's base by freezing it has all of the base's weights again; in memory they are needed once.

    Args:
        other: frozen.
        base: frozen, with or without adapters, whose layers are found under their own names.

    Returns:
        Bytes that are no longer held twice; they are logged.
    """
    own = {name.replace(".base_layer", "").removeprefix("base_model.model."): weight for name, weight in base.named_parameters()}
    saved = 0
    for name, weight in other.named_parameters():
        same = own.get(name)
        if same is None or same.requires_grad or weight.requires_grad:
            continue
        if same.shape == weight.shape and same.dtype == weight.dtype and same.device == weight.device and torch.equal(same, weight):
            weight.data = same.data
            saved += weight.numel() * weight.element_size()
    if saved:
        log.info("another model has %.0f MB of the policy's own frozen weights: they are held once", saved / 1e6)
    return saved
