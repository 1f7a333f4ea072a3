"""Weights of two estimates, where the moments are known."""

from __future__ import annotations

import math

import pytest
import torch

from grade_lightning.estimators import Moments, chunk_moments, hybrid_weights


def known(mu, nu, sigma, tau):
    """Moments of g = mu + sigma noise and h = nu + tau noise, independent noise in D dimensions."""
    signal = torch.stack([torch.stack([mu @ mu, mu @ nu]), torch.stack([mu @ nu, nu @ nu])])
    return Moments(signal, signal + torch.diag(torch.tensor([sigma**2, tau**2], dtype=torch.float64)) * len(mu))


MU = torch.tensor([3.0, 0.0, 4.0], dtype=torch.float64)
NU = torch.tensor([2.0, 1.0, 2.0], dtype=torch.float64)


def test_moments_are_unbiased():
    generator = torch.Generator().manual_seed(0)
    found = []
    for _ in range(4000):
        g = MU + 2.0 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        h = NU + 0.5 * torch.randn(2, 3, generator=generator, dtype=torch.float64)
        moments = chunk_moments(g, h)
        found.append(torch.stack([moments.signal, moments.total]))
    mean, error = torch.stack(found).mean(dim=0), torch.stack(found).std(dim=0) / math.sqrt(4000)
    expected = known(MU, NU, 2.0, 0.5)
    distance = ((mean - torch.stack([expected.signal, expected.total])) / error).abs()
    assert float(distance.max()) < 4.0


@pytest.mark.parametrize("chunks", [1, 4, 64])
def test_weights_minimise_the_mean_square_error(chunks):
    """Against a search over directions: no other mixture of the two is closer to mu at its best length."""
    moments = known(MU, NU, 4.0, 0.5)
    a, b = hybrid_weights(moments, chunks, min_cosine=0.0)

    def cosine(a, b):
        """E<x, mu> / (||mu|| sqrt(E||x||^2)): what the best length leaves of the error."""
        matrix = moments.signal + (moments.total - moments.signal) / chunks
        w = torch.tensor([a, b], dtype=torch.float64)
        return float(w @ moments.signal[:, 0] / (w @ matrix @ w).sqrt())

    best = max(cosine(math.cos(t), math.sin(t)) for t in torch.linspace(0, math.pi / 2, 2001).tolist())
    assert cosine(a, b) == pytest.approx(best, rel=1e-6)
    assert a + b * float(moments.signal[0, 1] / moments.signal[0, 0]) == pytest.approx(1)


def test_limits():
    exact = known(MU, NU, 1e-6, 0.5)  # nothing to gain from a biased estimate
    assert hybrid_weights(exact, 4, min_cosine=0.0) == pytest.approx((1.0, 0.0), abs=1e-6)
    hopeless = known(MU, 2 * MU, 1e6, 0.1)  # a policy gradient of pure noise, a straight-through one with the right direction
    a, b = hybrid_weights(hopeless, 4, min_cosine=0.0)
    assert a == pytest.approx(0.0, abs=1e-6)
    assert b == pytest.approx(0.5, rel=1e-6)


def test_safeguard():
    wrong = known(MU, -MU, 1.0, 0.1)
    assert hybrid_weights(wrong, 4, min_cosine=0.0) == (1.0, 0.0)
    weak = known(MU, NU, 1.0, 0.1)
    assert weak.cosine == pytest.approx(14 / 15)
    assert hybrid_weights(weak, 4, min_cosine=0.95) == (1.0, 0.0)
    assert hybrid_weights(weak, 4, min_cosine=0.9)[1] > 0
    noise = Moments(torch.tensor([[-1.0, 2.0], [2.0, 1.0]]), torch.eye(2))
    assert hybrid_weights(noise, 4, min_cosine=-1.0) == (1.0, 0.0)
