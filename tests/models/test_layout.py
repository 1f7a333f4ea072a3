"""Weights laid out for few tokens compute what they computed."""

from __future__ import annotations

import torch
from torch import nn

from grade_lightning.models.layout import suit_few_tokens
from tests.conftest import make_batch, make_policy


def test_only_the_order_in_memory_changes(model_folder):
    _, policy = make_policy(model_folder)
    batch = make_batch(policy)
    before = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    hidden = policy.hidden(policy.embed(batch.ids), batch.mask)
    suit_few_tokens(policy.lm)
    after = dict(policy.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)
    moved = {name for name, weight in after.items() if not weight.is_contiguous()}
    inside = {name for name in before if ("_proj" in name) and "lora_" not in name}
    assert moved == inside
    assert all(after[name].T.is_contiguous() for name in moved)
    assert torch.allclose(policy.hidden(policy.embed(batch.ids), batch.mask), hidden, rtol=1e-12, atol=1e-12)


def test_adapters_and_tables_stay_whoever_asks(model_folder):
    """Inside the reference the adapters have no gradients either; the table of embeddings is read row by row."""
    _, policy = make_policy(model_folder)
    with policy.reference(), policy.merged():
        pass
    lora = [weight for name, weight in policy.named_parameters() if "lora_" in name]
    assert all(weight.is_contiguous() for weight in lora)
    tables = [module.weight for module in policy.lm.modules() if isinstance(module, nn.Embedding)]
    assert all(weight.is_contiguous() for weight in [*tables, policy.lm.get_output_embeddings().weight])


def test_merged_weights_keep_the_order_and_go_back(model_folder):
    _, policy = make_policy(model_folder)
    suit_few_tokens(policy.lm)
    layer = next(module for name, module in policy.lm.named_modules() if name.endswith("q_proj"))
    weight, expected = layer.get_base_layer().weight, layer.get_base_layer().weight + layer.get_delta_weight("default")
    frozen = weight.data
    with policy.merged():
        assert torch.equal(weight, expected)
        assert weight.stride() == frozen.stride()
    assert weight.data.data_ptr() == frozen.data_ptr()
