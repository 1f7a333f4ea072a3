"""Best of n against all choices, closed forms and simulation; the command on a small run."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest

from grade_lightning.best_of_n import FILE, curve, main
from grade_lightning.evaluation.diversity import entropy_n, msttr, words
from grade_lightning.evaluation.order_statistics import expected_of_best, kl_bound, kl_of_best, weights_of_best
from grade_lightning.reporting.output import best_of_n
from tests.entry import SMALL, SMALL_LM


@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_expected_best_is_the_mean_over_every_choice(n):
    rng = np.random.default_rng(n)
    rewards, values = rng.integers(0, 4, (3, 6)).astype(float), rng.normal(size=(3, 6))  # with ties
    for row in range(3):
        chosen = [
            [i for i in subset if rewards[row, i] == rewards[row, list(subset)].max()] for subset in itertools.combinations(range(6), n)
        ]
        assert expected_of_best(rewards, rewards, n)[row] == pytest.approx(np.mean([rewards[row, best[0]] for best in chosen]))
        assert expected_of_best(rewards, values, n)[row] == pytest.approx(np.mean([values[row, best].mean() for best in chosen]))
    assert weights_of_best(6, n).sum() == pytest.approx(1)


def test_kl_is_the_bound_without_ties_and_exact_with_them():
    assert kl_of_best(np.arange(8.0)[None], 4)[0] == pytest.approx(kl_bound(4)) == pytest.approx(math.log(4) - 0.75)
    assert kl_bound(1) == 0
    # Two values of shares 3/4 and 1/4: best of 3 is the better with probability 1 - (3/4)^3.
    rewards = np.asarray([[0.0] * 6 + [1.0] * 2])
    worse, better = 0.75**3, 1 - 0.75**3
    assert kl_of_best(rewards, 3)[0] == pytest.approx(worse * math.log(worse / 0.75) + better * math.log(better / 0.25))
    assert kl_of_best(np.zeros((1, 8)), 5)[0] == pytest.approx(0, abs=1e-12)  # nothing is chosen
    many = np.asarray([[0.0, 0.0, *range(1, 255)]])  # the tie is never the best of 256
    assert kl_of_best(many, 256)[0] == pytest.approx(kl_bound(256))


def test_rewards_of_more_samples_never_fall():
    rng = np.random.default_rng(0)
    table = {"reward": rng.normal(size=(40, 64)).tolist(), "tokens": np.full((40, 64), 8.0).tolist()}
    rows = curve(table)
    assert [row["n"] for row in rows] == [1, 2, 4, 8, 16, 32, 64]
    assert all(a["reward_mean"] < b["reward_mean"] for a, b in itertools.pairwise(rows))
    # The expected maximum of 64 standard normal values is 2.38 (Harter 1961).
    assert rows[-1]["reward_mean"] == pytest.approx(2.38, abs=0.25)
    assert rows[0]["kl_mean"] == 0
    assert rows[2]["kl_mean"] == pytest.approx(kl_bound(4) / 8)


def test_the_command_goes_on_and_the_report_finds_its_curve(tmp_path, shared_cache, monkeypatch, capsys):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    arguments = [*SMALL, *SMALL_LM, f"out={tmp_path / 'best'}"]
    assert main([*arguments, "samples=2"]) == 0
    first = json.loads((tmp_path / "best" / FILE).read_text())["curve"]
    assert main([*arguments, "samples=4"]) == 0
    result = json.loads((tmp_path / "best" / FILE).read_text())
    assert [row["n"] for row in result["curve"]] == [1, 2, 4]
    assert result["prompts"] == 24
    assert 0 < result["curve"][0]["reward_mean"] < result["curve"][2]["reward_mean"] < 1
    assert {"judge_mean", "perplexity"} <= result["curve"][0].keys()
    assert len(first) == 2
    assert best_of_n(tmp_path) == (result["curve"], [])
    assert "nats/completion" in capsys.readouterr().out
    assert main([*arguments, "samples=4", "max_new_tokens=6"]) == 2
    assert "samples of other settings" in capsys.readouterr().err
    assert main(["samples=1"]) == 2
    (tmp_path / "best" / FILE).write_text("{}")
    assert "holds no best-of-n curve" in best_of_n(tmp_path)[1][0]


def test_word_diversity_by_hand():
    assert words("It's good, GOOD.") == ["it", "'", "s", "good", ",", "good", "."]
    assert msttr(["a b a b", "c d e"], segment=3) == pytest.approx((2 / 3 + 3 / 3) / 2)  # a b a | b c d | e is left over
    assert math.isnan(msttr(["a"], segment=3))
    assert entropy_n(["a b", "a c"], 1) == pytest.approx(1.5)  # 1/2, 1/4, 1/4
    assert entropy_n(["a b", "a c"], 2) == pytest.approx(1.0)
