"""Norms as one operation are the norms of transformers."""

import pytest
import torch
from transformers.models.gemma2.modeling_gemma2 import Gemma2RMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm

from grade_lightning.models.norms import FusedNorm
from tests.conftest import make_policy

BOUNDS = {torch.float32: 1e-5, torch.bfloat16: 0.02}


@pytest.mark.parametrize("kind", [LlamaRMSNorm, Qwen3RMSNorm])
@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("trained", [False, True])
def test_values_and_gradients(kind, dtype, trained):
    """Against autograd of transformers' own module, whether weights are frozen or not."""
    generator = torch.Generator().manual_seed(0)
    plain, fused = kind(24, eps=1e-2).to(dtype), kind(24, eps=1e-2).to(dtype)
    weight = torch.randn(24, generator=generator).to(dtype)
    for module in (plain, fused):
        module.weight.data.copy_(weight)
        module.requires_grad_(trained)
    FusedNorm.install(fused)
    assert isinstance(fused.forward, FusedNorm)
    x = torch.randn(2, 5, 24, generator=generator).to(dtype).requires_grad_()
    cotangent = torch.randn(2, 5, 24, generator=generator).to(dtype)
    inputs = [x, *([plain.weight] if trained else [])], [x, *([fused.weight] if trained else [])]
    found, expected = fused(x), plain(x)
    bound = BOUNDS[dtype]
    torch.testing.assert_close(found, expected, rtol=bound, atol=bound)
    for own, other in zip(*(torch.autograd.grad(y, wanted, cotangent) for y, wanted in zip((found, expected), inputs[::-1], strict=True)),
                          strict=True):  # fmt: skip
        torch.testing.assert_close(own, other, rtol=bound, atol=4 * bound)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), expected, rtol=bound, atol=bound)


def test_other_norms_stay_as_they_are():
    """Gemma multiplies with 1 + w."""
    gemma = Gemma2RMSNorm(16)
    with torch.no_grad():
        gemma.weight.copy_(torch.linspace(0, 1, 16))
    FusedNorm.install(gemma)
    assert not isinstance(gemma.forward, FusedNorm)


class GatedRMSNorm(LlamaRMSNorm):
    def forward(self, hidden_states, gate):
        return super().forward(hidden_states) * gate


class OutsideRMSNorm(LlamaRMSNorm):
    """eps outside of the root: the same wherever eps is nothing beside the rows."""

    def forward(self, x):
        return self.weight * x / (x.square().mean(-1, keepdim=True).sqrt() + self.variance_epsilon)


@pytest.mark.parametrize("kind", [GatedRMSNorm, OutsideRMSNorm])
def test_what_only_looks_alike_stays_as_it_is(kind):
    module = kind(16, eps=1e-5)
    FusedNorm.install(module)
    assert not isinstance(module.forward, FusedNorm)


def test_other_types_than_the_weights_are_the_modules_own():
    norm = LlamaRMSNorm(16)
    expected = norm(torch.ones(2, 16, dtype=torch.bfloat16))
    FusedNorm.install(norm)
    assert isinstance(norm.forward, FusedNorm)
    found = norm(torch.ones(2, 16, dtype=torch.bfloat16))
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)
    assert torch.equal(norm(hidden_states=torch.ones(2, 16)), norm(torch.ones(2, 16)))
    FusedNorm.remove(norm)
    assert not isinstance(norm.forward, FusedNorm)


def test_a_policy_has_them_all(model_folder):
    _, policy = make_policy(model_folder)
    norms = [module for module in policy.lm.modules() if type(module).__name__.endswith("RMSNorm")]
    assert norms
    assert all(isinstance(module.forward, FusedNorm) for module in norms)
