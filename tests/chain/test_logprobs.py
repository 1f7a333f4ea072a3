"""What policy gradients read of the vocabulary, by finite differences and by autograd of the definitions."""

import torch

from grade_lightning.chain.logprobs import _Read
from grade_lightning.estimators import exact_kl

N, V, K = 4, 9, 3


def drawn():
    generator = torch.Generator().manual_seed(0)
    logits, reference = (torch.randn(N, V, dtype=torch.float64, generator=generator) for _ in range(2))
    indices = torch.stack([torch.randperm(V, generator=generator)[:K] for _ in range(N)])
    return logits.requires_grad_(), reference, indices, indices[:, :1]


def test_values_are_the_definitions():
    logits, reference, indices, ids = drawn()
    candidates, kl, own, other = _Read.apply(logits, reference, indices, ids)
    assert torch.equal(candidates, logits.gather(-1, indices))
    torch.testing.assert_close(kl, exact_kl(logits, reference, torch.ones(N, dtype=torch.bool)))
    torch.testing.assert_close(own, torch.log_softmax(logits, -1).gather(-1, ids).squeeze(-1))
    torch.testing.assert_close(other, torch.log_softmax(reference, -1).gather(-1, ids).squeeze(-1))
    assert not other.requires_grad


def test_gradients_by_finite_differences():
    """Of each output, and of all together: an id is a candidate too."""
    logits, *rest = drawn()
    for chosen in (slice(0, 1), slice(1, 2), slice(2, 3), slice(0, 3)):
        assert torch.autograd.gradcheck(lambda values, chosen=chosen: _Read.apply(values, *rest)[chosen], logits)
