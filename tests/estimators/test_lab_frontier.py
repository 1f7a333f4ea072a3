"""The laboratory's frontier: its optimum, its batched functions against the ones for single policies, and its estimators' means."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.estimator_lab import frontier
from experiments.estimator_lab.frontier import ESTIMATES, Game, sequence_logprobs, share_at
from experiments.estimator_lab.gradients import relaxed_gradients
from experiments.estimator_lab.sequence import exact, log_probability
from grade_lightning.estimators import decoupled_st_weights


@pytest.fixture
def game() -> Game:
    return Game("smooth", 0)


def test_logprobs_of_many_policies_are_those_of_each(game):
    flat = game.start + torch.randn(3, len(game.start), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = sequence_logprobs(game.toy, flat, game.ids).sum(dim=-1)
    for policy, row in zip(flat, found, strict=True):
        torch.testing.assert_close(row, log_probability(game.toy, policy.expand(len(game.ids), -1), game.ids))


def test_gibbs_is_the_best_of_random_distributions_at_their_kl(game):
    generator = torch.Generator().manual_seed(2)
    for size in (0.05, 0.3, 1.0):
        logp = torch.log_softmax(game.reference + size * torch.randn(50, len(game.ids), generator=generator, dtype=torch.float64), dim=-1)
        for row in torch.cat([logp, torch.log_softmax(game.reference + 2 * size * game.rewards, dim=-1)[None]]):
            kl = float((row.exp() * (row - game.reference)).sum())
            assert float((row.exp() * game.rewards).sum()) <= game.gibbs(kl) + 1e-9
    assert game.gibbs(kl) == pytest.approx(float((row.exp() * game.rewards).sum()), abs=1e-9)  # the last one is Gibbs' own


def gradient(game: Game, name: str, rows: int) -> torch.Tensor:
    """Mean over rows of one estimate at the reference, [D]."""
    flat = game.start.expand(rows, -1).clone().requires_grad_()
    logp = sequence_logprobs(game.toy, flat, game.ids).sum(dim=-1)
    (found,) = torch.autograd.grad(ESTIMATES[name](game, flat, logp).sum(), flat)
    return found


def test_noiseless_estimates_are_sums_over_all_sequences(game):
    probability, _, truth = exact(game.toy)
    torch.testing.assert_close(gradient(game, "exact", 1)[0], truth)
    noise = torch.zeros(len(game.ids), *game.toy.shape, dtype=torch.float64)
    plain = relaxed_gradients(game.toy, noise, lambda logits, g, hard: decoupled_st_weights(logits, g, 1.0, hard=hard), ids=game.ids)
    torch.testing.assert_close(gradient(game, "st_mean", 1)[0], (probability[:, None] * plain).sum(dim=0))


@pytest.mark.parametrize(("name", "mean"), [("rloo", "exact"), ("st", "st_mean")])
def test_sampled_estimates_have_these_means(game, name, mean):
    found, truth = gradient(game, name, 4000), gradient(game, mean, 1)[0]
    error = found.std(dim=0) / len(found) ** 0.5
    assert float(((found.mean(dim=0) - truth).abs() / error.clamp_min(1e-12))[error > 1e-9].max()) < 5


@pytest.mark.parametrize(("kind", "name"), [("linear", "rloo_cv"), ("smooth", "leave_one_out"), ("steep", "leave_one_out")])
def test_control_variates_are_unbiased(kind, name):
    """That of the others' slopes for any reward; that of its own where they do not depend on the token."""
    game = Game(kind, 0)
    found, truth = gradient(game, name, 4000), gradient(game, "exact", 1)[0]
    error = found.std(dim=0) / len(found) ** 0.5
    assert float(((found.mean(dim=0) - truth).abs() / error.clamp_min(1e-12))[error > 1e-9].max()) < 5


def test_effects_of_all_tokens_take_noise_away_and_the_tokens_own_hardly_any():
    noise = {name: float(gradient(Game("linear", 0), name, 2000).var(dim=0).sum()) for name in ("rloo", "rloo_cv", "leave_one_out")}
    assert noise["leave_one_out"] < 0.4 * noise["rloo"]
    assert 0.6 * noise["rloo"] < noise["rloo_cv"]


def test_the_mixture_goes_from_one_to_the_other(game):
    ends = []
    for step in (0, 10**9):
        game.step = step
        ends.append(gradient(game, "annealed", 4000))
    for found, mean in zip(ends, ("st_mean", "exact"), strict=True):
        error = found.std(dim=0) / len(found) ** 0.5
        assert float(((found.mean(dim=0) - gradient(game, mean, 1)[0]).abs() / error.clamp_min(1e-12))[error > 1e-9].max()) < 5


def test_share_of_the_best_rise(game):
    first = float((game.reference.exp() * game.rewards).sum())
    on_it = np.asarray([[kl, game.gibbs(kl)] for kl in (1.0, 0.5, 0.25)])
    assert share_at(game, on_it, 0.5) == pytest.approx(1.0)
    assert share_at(game, np.asarray([[1.0, (first + game.gibbs(1.0)) / 2]]), 1.0) == pytest.approx(0.5)
    assert np.isnan(share_at(game, on_it, 1.5))


def test_training_approaches_the_best_and_never_passes_it(game, monkeypatch):
    monkeypatch.setattr(frontier, "STEPS", (5, 60))
    monkeypatch.setattr(frontier, "RATES", (0.1,))
    early, late = frontier.train(game, ESTIMATES["exact"], 1)[:, 0, :, 0]
    for kl, reward in [*early.tolist(), *late.tolist()]:
        assert reward <= game.gibbs(kl) + 1e-9
    assert share_at(game, late.numpy(), 0.5) > max(0.9, share_at(game, early.numpy(), 0.5))


def test_no_share_is_above_the_best_whatever_lies_between_the_runs(game):
    """Two policies on the best frontier itself, far apart: between them a chord of it."""
    ends = np.asarray([[kl, game.gibbs(kl)] for kl in (0.05, 2.5)])
    assert all(share_at(game, ends, kl) <= 1 + 1e-9 for kl in (0.1, 0.3, 1.0, 2.0, 2.5))


def test_one_rate_for_all_policies():
    """The rate with the best mean, not each policy's own best; a rate at which one run did not go so far is out."""
    shares = np.asarray([[[0.9, 0.9], [0.1, 0.1]], [[0.6, 0.6], [0.6, 0.8]], [[1.0, 1.0], [1.0, np.nan]]])
    each, rate = frontier.best(shares)
    assert (each, rate) == (pytest.approx([0.6, 0.7]), frontier.RATES[1])
