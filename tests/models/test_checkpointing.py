"""Activation checkpointing computes what the plain pass computes, whatever dropout a model's own configuration has."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grade_lightning.models.base import load_base
from grade_lightning.models.policy import Policy
from tests.models.families import SIZES
from tests.models.test_supported import ATTENTION, config_of, saved

DROPOUT = {
    "OPT": {**ATTENTION["OPT"], "dropout": 0.5, "attention_dropout": 0.5},
    "Qwen3": {**ATTENTION["Qwen3"], "attention_dropout": 0.5},
    "Llama": {**ATTENTION["Llama"], "attention_dropout": 0.5},
    "GPTNeoX": {**SIZES, "attention_dropout": 0.5, "hidden_dropout": 0.5},
    "Phi": {**SIZES, "attention_dropout": 0.5, "resid_pdrop": 0.5, "embd_pdrop": 0.5},
    "GPT2": {"vocab_size": SIZES["vocab_size"], "n_embd": 32, "n_layer": 2, "n_head": 2, "resid_pdrop": 0.5, "embd_pdrop": 0.5,
             "attn_pdrop": 0.5},
}  # fmt: skip


@pytest.mark.parametrize("name", DROPOUT)
def test_states_and_gradients_are_those_of_the_plain_pass(name, tmp_path, tokenizer):
    """And the layers are really computed again, in eval mode throughout."""
    path = saved(config_of(name, DROPOUT[name]), tmp_path, tokenizer)
    ids, mask = torch.arange(4, 24).view(2, 10), torch.ones(2, 10, dtype=torch.bool)
    mask[1, :3] = False
    found, calls = [], []
    for checkpointing in (False, True):
        policy = Policy(load_base(path), r=2, checkpointing=checkpointing)
        modes: list[bool] = []
        layer = next(module for key, module in policy.lm.named_modules() if key.endswith(("layers.1", "h.1")))
        norm = next(module for module in layer.modules() if "norm" in type(module).__name__.lower())
        norm.register_forward_hook(lambda *_, layer=layer, modes=modes: modes.append(layer.training))
        embeds = policy.embed(ids).detach().requires_grad_()
        with torch.no_grad():
            for weight in (weight for key, weight in policy.trainable().items() if "lora_B" in key):
                weight.copy_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
        hidden = policy.hidden(embeds, mask)
        slope = torch.linspace(-1, 1, hidden.numel()).view_as(hidden)
        gradients = torch.autograd.grad((hidden * slope)[mask].sum(), [embeds, *policy.trainable().values()])
        found.append([hidden[mask].detach(), *gradients])
        calls.append(len(modes))
        assert not any(modes)
        assert not any(isinstance(module, nn.Module) and module.training for module in policy.modules())
    assert calls == [1, 2]
    for plain, again in zip(*found, strict=True):
        assert (plain - again).norm() <= 1e-5 * plain.norm()
