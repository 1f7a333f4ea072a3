"""The merged linear layer against PEFT's own forward."""

import pytest
import torch
from peft.tuners.lora import LoraLayer

from tests.conftest import make_policy


def layers_of(policy):
    return [module for module in policy.lm.modules() if isinstance(module, LoraLayer)]


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_same_values_and_gradients_as_peft(request, folder):
    _, policy = make_policy(request.getfixturevalue(folder))
    layer = layers_of(policy)[1]
    width = layer.in_features
    x = torch.randn(3, width, width, dtype=torch.float64, requires_grad=True)
    inputs = [x, layer.lora_A["default"].weight, layer.lora_B["default"].weight]
    assert inputs[2].norm() > 0
    values, gradients = [], []
    for forward in (layer.forward, layer.forward.apart):
        values.append(forward(x))
        weights = torch.linspace(-1, 1, values[-1].numel(), dtype=torch.float64).view_as(values[-1])
        gradients.append(torch.autograd.grad((values[-1] ** 2 * weights).sum(), inputs))
    torch.testing.assert_close(*values)
    for merged, apart in zip(*gradients, strict=True):
        torch.testing.assert_close(merged, apart)


def products(policy, ids) -> int:
    """Products with an adapter's A in one forward pass."""
    calls = []
    hooks = [layer.lora_A["default"].register_forward_hook(lambda *_: calls.append(1)) for layer in layers_of(policy)]
    policy.hidden(policy.embed(ids), torch.ones_like(ids, dtype=torch.bool))
    for hook in hooks:
        hook.remove()
    return len(calls)


def test_where_peft_stays_in_charge(model_folder):
    """Fewer tokens than the layer is wide, 16-bit weights, dropout: adapters apart.  Otherwise none of their products is made."""
    ids = torch.arange(4 * 32).view(4, 32)
    _, policy = make_policy(model_folder)
    layers = len(layers_of(policy))
    assert products(policy, ids) == 0
    assert products(policy, ids[:1, :31]) == layers
    policy.to(torch.bfloat16)
    assert products(policy, ids) == layers
    _, dropping = make_policy(model_folder, dropout=0.3)
    assert products(dropping, ids) == 0
    with dropping.dropout(0, 1, torch.arange(4)):
        assert products(dropping, ids) == layers


def test_rounded_adapters_are_the_adapters_to_16_bits(model_folder):
    """A hidden state moves by no more than rounding in bf16 does; copies keep their place and follow the adapters."""
    _, policy = make_policy(model_folder, precision="bf16", perturb=0.3)
    layer = layers_of(policy)[0]
    x = torch.randn(3, 2, layer.in_features).bfloat16()
    with torch.no_grad():
        expected, base = layer(x), layer.get_base_layer()(x)
        with policy.merged():
            found, places = layer(x), [own.data_ptr() for own in layer.forward._pair]
        assert (expected - base).norm() > 0.05 * base.norm()  # the adapter is felt
        assert (found - expected).norm() < 0.01 * expected.norm()
        assert torch.equal(layer(x), expected)  # and PEFT's are back
        layer.lora_B["default"].weight.mul_(2)
        with policy.merged(in_place=False):
            again = layer(x)
        assert [own.data_ptr() for own in layer.forward._pair] == places
        assert (again - layer(x)).norm() < 0.01 * again.norm()
        assert (again - found).norm() > 0.05 * found.norm()
        with policy.merged(), policy.reference():
            assert torch.equal(layer(x), base)


def test_rounded_adapters_know_no_inference_mode(model_folder):
    """Made in it, they can be written outside of it; leaving an inner one leaves an outer one as it is."""
    _, policy = make_policy(model_folder, precision="bf16", perturb=0.3)
    layer = layers_of(policy)[0].forward
    with torch.inference_mode(), policy.merged():
        pass
    with policy.merged():
        with torch.inference_mode(), policy.merged():
            assert layer.rounds
        assert layer.rounds
    assert not layer.rounds
