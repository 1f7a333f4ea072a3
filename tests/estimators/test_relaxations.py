"""Relaxed samples against torch's Gumbel-softmax, softmax frequencies and the definition of straight-through."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import stats

from grade_lightning.estimators import entropy_gated_weights, gumbel_noise, gumbel_softmax_topk


@pytest.mark.parametrize("hard", [False, True])
@pytest.mark.parametrize("tau", [0.5, 1.0, 2.0])
def test_equals_torch_when_k_is_the_vocabulary(monkeypatch, hard, tau):
    torch.manual_seed(0)
    logits = torch.randn(5, 3, 17, dtype=torch.float64, requires_grad=True)
    noise = gumbel_noise((5, 3, 17), dtype=torch.float64)
    upstream = torch.randn(5, 3, 17, dtype=torch.float64)

    # torch draws -log(Exponential(1)) itself: give it the exponentials that make the same noise.
    monkeypatch.setattr(torch.Tensor, "exponential_", lambda self: self.copy_((-noise).exp()))
    expected = F.gumbel_softmax(logits, tau=tau, hard=hard)
    (expected_grad,) = torch.autograd.grad((expected * upstream).sum(), logits)
    monkeypatch.undo()

    order = logits.topk(17).indices
    tokens = gumbel_softmax_topk(logits, tau, 17, noise=noise.gather(-1, order), straight_through=hard)
    dense = torch.zeros_like(expected).scatter(-1, tokens.indices, tokens.weights)
    (grad,) = torch.autograd.grad((dense * upstream).sum(), logits)
    torch.testing.assert_close(dense, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-10, atol=1e-12)
    assert torch.equal(tokens.token_ids, expected.argmax(dim=-1))


def test_sampled_frequencies_are_the_softmax():
    torch.manual_seed(1)
    logits = torch.tensor([2.0, 0.3, -1.0, 0.9, 0.0, -4.0])
    draws = 60_000
    tokens = gumbel_softmax_topk(logits.expand(draws, -1), 0.7, 4)
    support = logits.topk(4).indices
    observed = torch.bincount(tokens.token_ids, minlength=6)
    assert observed.sum() == observed[support].sum()
    expected = torch.softmax(logits[support].double(), dim=0) * draws
    assert stats.chisquare(observed[support].numpy(), expected.numpy()).pvalue > 1e-4


def test_frequencies_test_would_notice_a_wrong_temperature():
    torch.manual_seed(1)
    logits = torch.tensor([2.0, 0.3, -1.0, 0.9])
    tokens = gumbel_softmax_topk(logits.expand(60_000, -1), 0.7, 4)
    observed = torch.bincount(tokens.token_ids, minlength=4)
    wrong = torch.softmax(logits.double() / 1.05, dim=0) * 60_000
    assert stats.chisquare(observed.numpy(), wrong.numpy()).pvalue < 1e-4


def test_straight_through_value_is_exactly_one_hot():
    torch.manual_seed(2)
    tokens = gumbel_softmax_topk(torch.randn(200, 50) * 5, 0.3, 20)
    assert torch.equal(tokens.weights.sort(dim=-1).values[:, :-1], torch.zeros(200, 19))
    assert torch.equal(tokens.weights.amax(dim=-1), torch.ones(200))
    assert torch.equal(tokens.indices.gather(-1, tokens.weights.argmax(-1, keepdim=True)).squeeze(-1), tokens.token_ids)


def test_double_stays_double_and_noise_is_gumbel():
    noise = gumbel_noise((200_000,), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert noise.dtype == torch.float64
    assert noise.mean() == pytest.approx(0.5772156649, abs=0.02)  # Euler-Mascheroni
    assert noise.var() == pytest.approx(torch.pi**2 / 6, abs=0.03)
    assert gumbel_softmax_topk(torch.randn(3, 9).double(), 1.0, 4).weights.dtype == torch.float64


@pytest.mark.parametrize(("tau", "k", "message"), [(1.0, 0, "top-k"), (1.0, 10, "vocabulary size 9"), (0.0, 4, "temperature")])
def test_bad_settings_are_named(tau, k, message):
    with pytest.raises(ValueError, match=message):
        gumbel_softmax_topk(torch.zeros(2, 9), tau, k)


def test_wrong_noise_shape_is_refused():
    with pytest.raises(ValueError, match="noise has shape"):
        gumbel_softmax_topk(torch.zeros(2, 9), 1.0, 4, noise=torch.zeros(2, 9))


def test_entropy_gated_weights_lie_between_mixture_and_sample():
    """y = q + w (D - q) with SciPy's entropy; the gradient is that of q."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 6, generator=generator, dtype=torch.float64).requires_grad_()
    hard, tau = torch.tensor([1, 0, 5]), 0.7
    found = entropy_gated_weights(logits, torch.zeros_like(logits), tau, hard=hard)
    q = torch.softmax(logits / tau, dim=-1)
    gate = torch.tensor(stats.entropy(q.detach().numpy(), axis=-1) / math.log(6)).unsqueeze(-1)
    onehot = torch.nn.functional.one_hot(hard, 6)
    torch.testing.assert_close(found, q + gate * (onehot - q))
    direction = torch.randn(3, 6, generator=generator, dtype=torch.float64)
    (slope,) = torch.autograd.grad((found * direction).sum(), logits, retain_graph=True)
    (of_q,) = torch.autograd.grad((q * direction).sum(), logits)
    torch.testing.assert_close(slope, of_q)


def test_entropy_gate_at_its_ends_and_outside_the_support():
    """Equal logits feed the sample, a sure one the mixture, and what cannot be drawn has neither weight nor gradient."""
    inf = float("inf")
    logits = torch.tensor([[0.0, 0.0, -inf], [40.0, 0.0, -inf], [3.0, -inf, -inf]], dtype=torch.float64, requires_grad=True)
    found = entropy_gated_weights(logits, torch.zeros(3, 3, dtype=torch.float64), 1.0, hard=torch.tensor([1, 1, 0]))
    torch.testing.assert_close(found[0], torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64))
    torch.testing.assert_close(found[1], torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64), atol=1e-12, rtol=0)
    (slope,) = torch.autograd.grad(found[:, 0].sum(), logits)
    assert slope.isfinite().all()
    assert slope[:, 2].abs().sum() == 0
