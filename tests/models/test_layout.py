"""Weights laid out for few tokens compute what they computed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from grade_lightning.models.base import load_base
from grade_lightning.models.layout import suit_few_tokens
from grade_lightning.models.policy import Policy
from tests.conftest import make_policy


@torch.no_grad()
def test_only_the_order_in_memory_changes(model_folder):
    model = load_base(str(model_folder), precision="fp64").model
    ids = torch.arange(4, 28).view(2, 12)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    logits = model(input_ids=ids).logits
    suit_few_tokens(model)
    after = dict(model.named_parameters())
    assert all(torch.equal(after[name], before[name]) for name in before)
    moved = {name for name, weight in after.items() if not weight.is_contiguous()}
    assert moved == {name for name in before if "_proj" in name}
    assert all(after[name].T.is_contiguous() for name in moved)
    # Sums in another order, and norms that compute in fp32: rounding of fp32 at most.
    assert (model(input_ids=ids).logits - logits).norm() < 1e-5 * logits.norm()


def test_a_policy_lays_out_its_base_and_neither_adapters_nor_tables(model_folder):
    """The table of embeddings is read row by row."""
    _, policy = make_policy(model_folder)
    with policy.reference():
        suit_few_tokens(policy.lm)  # the adapters have no gradients here either
    base = [weight for name, weight in policy.named_parameters() if "_proj" in name and "lora_" not in name]
    assert base
    assert all(weight.T.is_contiguous() and not weight.is_contiguous() for weight in base)
    lora = [weight for name, weight in policy.named_parameters() if "lora_" in name]
    assert all(weight.is_contiguous() for weight in lora)
    tables = [module.weight for module in policy.lm.modules() if isinstance(module, nn.Embedding)]
    assert all(weight.is_contiguous() for weight in [*tables, policy.lm.get_output_embeddings().weight])


def state_of(policy) -> dict[str, object]:
    """Where every weight lies, how, what it holds and whether it is trained; and every plain attribute of every module."""
    found: dict[str, object] = {}
    for name, weight in [*policy.named_parameters(), *policy.named_buffers()]:
        found[name] = (id(weight), weight.data_ptr(), weight.stride(), weight.requires_grad, weight.detach().flatten().tolist())
    for name, module in policy.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, bool | int | float | str | list | tuple | dict | None) and key not in (
                "_parameters",
                "_buffers",
                "_modules",
            ):
                found[f"{name}:{key}"] = repr(value)
    return found


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_merging_leaves_everything_as_it_was(folder, precision, request):
    """From the first time on: a policy as it was made, one that merges and one that does not."""
    policy = Policy(load_base(str(request.getfixturevalue(folder)), precision=precision), r=4)
    before = state_of(policy)
    assert len(before) > 50
    with policy.merged():
        assert (state_of(policy) != before) == (precision == "fp32")
    assert state_of(policy) == before
    with policy.reference(), policy.merged():
        pass
    assert state_of(policy) == before


def test_merged_weights_keep_the_order_and_go_back(model_folder):
    _, policy = make_policy(model_folder)
    layer = next(module for name, module in policy.lm.named_modules() if name.endswith("q_proj"))
    weight, expected = layer.get_base_layer().weight, layer.get_base_layer().weight + layer.get_delta_weight("default")
    frozen = weight.data
    with policy.merged():
        assert torch.equal(weight, expected)
        assert weight.stride() == frozen.stride()
    assert weight.data.data_ptr() == frozen.data_ptr()
