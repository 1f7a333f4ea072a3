"""What first-order effects explain of a reward, where it is known."""

from __future__ import annotations

import pytest
import torch

from experiments.frontier.linear import SLOPES, _of_others, explained


def make(rows: int = 64, noise: float = 0.0):
    """Rewards that are a linear function of what was drawn, with one slope for each position, and a level for each prompt."""
    generator = torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)  # noqa: E731
    slopes = normal(1, 5, 3).expand(rows, 5, 3)
    mask = torch.arange(5) < torch.randint(2, 6, (rows, 1), generator=generator)
    offsets = normal(rows, 5, 3) * mask.unsqueeze(-1)
    slopes = slopes * mask.unsqueeze(-1)
    rewards = 0.5 * (offsets * slopes).sum(dim=(1, 2)) + normal(rows // 4).repeat_interleave(4) + noise * normal(rows)
    return rewards, slopes, offsets, mask


def test_linear_rewards_are_explained_whole():
    """By position; with one slope for all positions only in part."""
    found = explained(*make())
    for name in SLOPES[:3:2]:
        assert found[name]["share"] == pytest.approx(1.0)
        assert found[name]["factor"] == pytest.approx(0.5)
        assert found[name]["as it is"] == pytest.approx(0.0, abs=1e-9)  # twice as long as it should be: 2 x 2 - 4
    assert 0 < found[SLOPES[3]]["share"] < 0.9


def test_noise_is_not_explained():
    share = explained(*make(4000, noise=2.0))[SLOPES[2]]["share"]
    _, slopes, offsets, _ = make(4000)
    signal = 0.25 * (offsets * slopes).sum(dim=(1, 2)).var()
    assert share == pytest.approx(float(signal / (signal + 4.0)), abs=0.04)


def test_a_mean_over_others_has_nothing_of_its_own_row():
    generator = torch.Generator().manual_seed(0)
    sums, counts = torch.randn(8, 5, 3, generator=generator), torch.ones(8, 5, 1)
    changed = sums.clone()
    changed[5] += 1
    before, after = _of_others(sums, counts, 4), _of_others(changed, counts, 4)
    assert [bool(torch.allclose(a, b, atol=1e-5)) for a, b in zip(before, after, strict=True)] == [True] * 4 + [False, True, False, False]
    torch.testing.assert_close(before[5], (sums[4] + sums[6] + sums[7]) / 3)
