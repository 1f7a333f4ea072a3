"""Bags of rows and products with rows, each the other's gradient."""

import pytest
import torch

from grade_lightning.models import bags as module
from grade_lightning.models.bags import bags, dots, gathered_products

N, K, V, D = 6, 5, 11, 4


@pytest.fixture
def drawn():
    generator = torch.Generator().manual_seed(0)
    draw = lambda *shape: torch.randn(*shape, dtype=torch.float64, generator=generator)  # noqa: E731
    return torch.randint(V, (N, K), generator=generator), draw(V, D), draw(N, K).requires_grad_(), draw(N, D).requires_grad_()


def test_values_and_gradients_by_definition(drawn):
    indices, table, weights, states = drawn
    expected = torch.einsum("nk,nkd->nd", weights, table[indices])
    torch.testing.assert_close(bags(indices, table, weights), expected)
    torch.testing.assert_close(dots(states, table, indices), torch.einsum("nd,nkd->nk", states, table[indices]))
    assert torch.autograd.gradcheck(lambda w: bags(indices, table, w), weights)
    assert torch.autograd.gradcheck(lambda s: dots(s, table, indices), states)


@pytest.mark.parametrize("room", [1, 2 * K * D, 1 << 27])
def test_gathered_rows_give_the_same(drawn, monkeypatch, room):
    """What stands in for a kernel that torch lacks for bf16 on CUDA, in parts of any size."""
    indices, table, _, states = drawn
    monkeypatch.setattr(module, "GATHERED_ELEMENTS", room)
    torch.testing.assert_close(gathered_products(states, table, indices), dots(states, table, indices))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_in_bf16(drawn):
    indices, table, weights, states = (tensor.detach().cuda() for tensor in drawn)
    low = [tensor.bfloat16().requires_grad_() for tensor in (weights, states)]
    found = bags(indices, table.bfloat16(), low[0]), dots(low[1], table.bfloat16(), indices)
    expected = bags(indices, table, weights), dots(states, table, indices)
    for own, other, leaf in zip(found, expected, low, strict=True):
        torch.testing.assert_close(own.double(), other, rtol=0.05, atol=0.05)
        assert torch.autograd.grad(own.sum(), leaf)[0].isfinite().all()
