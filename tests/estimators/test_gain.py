"""A gain learned along earlier gradients: what it is an estimate of, and when it is trusted."""

from __future__ import annotations

import math

import pytest
import torch

from grade_lightning.estimators import GainAverage, PairedSums, chunk_moments


def test_sums_give_the_moments_of_the_chunks_themselves():
    g, h = torch.randn(2, 5, 30, dtype=torch.float64)
    sums, first, second = PairedSums([10, 20]), PairedSums([10, 20]), PairedSums([10, 20])
    for row in range(5):
        sums.add(g[row], h[row])
        (first if row < 2 else second).add(g[row], h[row])
    for part, columns in enumerate((slice(0, 10), slice(10, 30))):
        expected = chunk_moments(g[:, columns], h[:, columns])
        for found in (sums.moments()[part], first.merged(second).moments()[part]):
            torch.testing.assert_close(found.signal, expected.signal)
            torch.testing.assert_close(found.total, expected.total)


def drawn(
    steps: int, *, length: float, noise: float, seed: int = 0, cosine: float = 1.0, form: str = "regression", turn: float = 0.0
) -> GainAverage:
    """Steps of g = mu + noise and of h with the given length and cosine and less noise, in 400 dimensions; mu turns from step to step."""
    generator = torch.Generator().manual_seed(seed)
    mu, other, third = torch.linalg.qr(torch.randn(400, 3, generator=generator, dtype=torch.float64))[0].T
    average = GainAverage([400], momentum=0.98, form=form)
    for step in range(steps):
        now = math.cos(turn * step) * mu + math.sin(turn * step) * third
        g = now + noise * torch.randn(400, generator=generator, dtype=torch.float64)
        direction = cosine * now + (1 - cosine**2) ** 0.5 * other
        average.add(g, length * (direction + 0.1 * noise * torch.randn(400, generator=generator, dtype=torch.float64)))
    return average


@pytest.mark.parametrize(("form", "expected"), [("regression", 0.8 / 0.25), ("projection", 1 / (0.8 * 0.25))])
def test_it_finds_what_is_missing(form, expected):
    """A step's noise is six times as long as its mean."""
    found = drawn(400, length=0.25, noise=0.3, cosine=0.8, form=form)
    assert float(found.estimate().value) == pytest.approx(expected, rel=0.15)
    assert float(found.estimate().trusted) == pytest.approx(expected, rel=0.25)
    assert found.cosine == pytest.approx(0.8, abs=0.08)


@pytest.mark.parametrize(("form", "cosine", "expected"), [("regression", 1.0, 4.0), ("projection", 1.0, 4.0), ("projection", 0.5, 8.0)])
def test_a_gradient_that_turns_leaves_the_gain(form, cosine, expected):
    """Two right angles over the run: directions of earlier steps lag behind, and g and h are compared along the same ones."""
    found = drawn(300, length=0.25, noise=0.2, form=form, cosine=cosine, turn=math.pi / 300)
    assert float(found.estimate().value) == pytest.approx(expected, rel=0.2)


def test_it_needs_fewer_steps_than_products_within_them():
    """Gains from the squared length of a step's own mean, chunks against chunks, scatter many times as much."""
    generator, within, along = torch.Generator().manual_seed(0), [], []
    for _ in range(40):
        average, products = GainAverage([400], momentum=0.98), torch.zeros(2, 2, dtype=torch.float64)
        for _ in range(20):
            g = torch.nn.functional.pad(torch.ones(4, 1), (0, 399)) + 0.6 * torch.randn(4, 400, generator=generator)
            h = 0.25 * torch.nn.functional.pad(torch.ones(4, 1), (0, 399)) + 0.015 * torch.randn(4, 400, generator=generator)
            average.add(g.mean(dim=0), h.mean(dim=0))
            products += chunk_moments(g, h).signal
        within.append(float(products[0, 0] / products[0, 1]))
        along.append(float(average.estimate().value))
    assert torch.tensor(along).median() == pytest.approx(4, rel=0.1)
    spread = [float(torch.tensor(found).quantile(0.9) - torch.tensor(found).quantile(0.1)) for found in (along, within)]
    assert spread[0] < 0.6 * spread[1]


def test_the_error_bar_is_that_of_repeated_experiments():
    """Over many runs, the interval of one standard error holds the truth in about two of three, less often where directions differ."""
    for cosine, least, most in ((1.0, 0.5, 0.85), (0.5, 0.35, 0.8)):
        inside = 0
        for seed in range(60):
            found = drawn(30, length=0.5, noise=0.2, seed=seed, cosine=cosine, form="projection").estimate()
            inside += bool(found.low <= 2.0 / cosine <= found.high)
        assert least < inside / 60 < most


def test_steps_that_say_nothing_are_no_evidence():
    """A gradient that is zero for some steps, as a surrogate's before its first fit, neither counts nor weighs on later ones."""
    generator = torch.Generator().manual_seed(0)
    average, late = GainAverage([30, 10]), GainAverage([30, 10])
    for step in range(40):
        g = 1 + 0.1 * torch.randn(40, generator=generator)
        h = 0.25 * g * torch.cat([torch.full((30,), float(step >= 16)), torch.ones(10)])
        average.add(g, h)
        if step >= 16:
            late.add(g, h)
        if step == 16:
            assert float(average.estimate().value[0]) == 1.0
    torch.testing.assert_close(average.state[0, 20:], late.state[0, 20:])
    assert average.estimate().trusted.tolist() == pytest.approx([4.0, 4.0], rel=1e-3)
    short = GainAverage([40], momentum=0.7)  # the least that settings allow: its steps come to count as enough
    for _ in range(12):
        short.add(4 + 0.01 * torch.randn(40, generator=generator), torch.ones(40))
    assert float(short.estimate().trusted) == pytest.approx(4.0, rel=0.02)


def test_the_cosine_of_parts_is_that_of_the_whole():
    """Parts of unequal lengths: (1, 1) and (1, 0.01) are 45 degrees apart, their parts none."""
    whole, parts = GainAverage([2]), GainAverage([1, 1])
    for _ in range(8):
        for average in (whole, parts):
            average.add(torch.tensor([1.0, 1.0]), torch.tensor([1.0, 0.01]))
    assert whole.cosine == pytest.approx(parts.cosine, rel=1e-5) == pytest.approx(0.714, abs=0.001)


def test_no_step_weighs_itself():
    """What a step adds is linear in its own gradients: along means that hold no sample of it."""
    average = drawn(10, length=0.25, noise=0.2)
    kept, means = average.state.clone(), average.means.clone()
    generator = torch.Generator().manual_seed(9)
    g, h = torch.randn(2, 400, generator=generator, dtype=torch.float64)
    added = []
    for scale in (1.0, 3.0):
        average.state, average.means = kept.clone(), means.clone()
        average.add(scale * g, scale * h)
        added.append(average.state[0, :4] - 0.98 * kept[0, :4])
    torch.testing.assert_close(added[1], 3 * added[0], rtol=1e-6, atol=1e-9)


def test_without_evidence_nothing_is_scaled():
    assert GainAverage([1, 2, 3]).estimate().trusted.tolist() == [1.0, 1.0, 1.0]
    assert drawn(4, length=0.25, noise=0.01).estimate().trusted.tolist() == [1.0]  # so few have no error bar
    noise_alone = drawn(40, length=0.25, noise=100.0)
    found = noise_alone.estimate()
    assert float(found.trusted) == pytest.approx(float(torch.ones(1).clamp(found.low.float(), found.high.float())))
    assert float(drawn(40, length=4.0, noise=0.02).estimate().trusted) < 0.3  # too long is made shorter
