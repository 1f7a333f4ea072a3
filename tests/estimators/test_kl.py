"""Exact KL against torch.distributions."""

import pytest
import torch
from torch.distributions import Categorical, kl_divergence

from grade_lightning.estimators import exact_kl
from tests import unchecked_shapes


def test_equals_torch_distributions():
    torch.manual_seed(0)
    p, q = torch.randn(3, 5, 11, dtype=torch.float64), torch.randn(3, 5, 11, dtype=torch.float64)
    mask = torch.rand(3, 5) < 0.6
    expected = kl_divergence(Categorical(logits=p), Categorical(logits=q)) * mask
    torch.testing.assert_close(exact_kl(p, q, mask), expected)


def test_identical_distributions_have_none():
    p = torch.randn(2, 3, 7)
    assert exact_kl(p, p + 2.0, torch.ones(2, 3, dtype=torch.bool)).abs().max() < 1e-6


def test_padding_may_hold_anything():
    p = torch.randn(1, 2, 4)
    p[0, 1] = torch.nan
    kl = exact_kl(p, torch.randn(1, 2, 4), torch.tensor([[True, False]]))
    assert kl[0, 1] == 0
    assert kl[0, 0] > 0


@pytest.mark.parametrize("mask", [torch.ones(2, 4, dtype=torch.bool), torch.ones(2, dtype=torch.bool)])
def test_wrong_mask_is_refused(mask):
    with unchecked_shapes(), pytest.raises(ValueError, match="mask has shape"):
        exact_kl(torch.zeros(2, 3, 5), torch.zeros(2, 3, 5), mask)
