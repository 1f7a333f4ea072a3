"""Rewards at equal KL, by hand; committed tables of the rewards are made from their records."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.equal_kl import at, compare, over_all
from experiments.rewards.report import write
from experiments.rewards.study import HERE, RECORDS


def curve(*pairs: tuple[float, float], prompts: int = 50, spread: float = 0.1):
    """Points whose prompts lie around a mean, further from it the more KL."""
    offsets = np.linspace(-spread, spread, prompts)
    return [(kl, reward + (1 + kl * len(pairs)) * offsets) for kl, reward in pairs]


def test_between_two_runs_each_prompt_is_interpolated():
    runs = [(0.0, np.asarray([0.2, 0.4])), (1.0, np.asarray([0.6, 0.4]))]
    assert at(runs, 0.25).tolist() == pytest.approx([0.3, 0.4])
    assert at(runs, 0.0).tolist() == [0.2, 0.4]
    assert at(runs, 1.0).tolist() == [0.6, 0.4]
    assert at(runs, 1.1) is None


def test_comparison_takes_the_seeds_that_reach():
    first = {seed: curve((0, 0.5), (1, 0.9 + 0.01 * seed)) for seed in (1, 2, 3)}
    second = {1: curve((0, 0.5), (1, 0.7), spread=0.05), 2: curve((0, 0.5), (1, 0.7)), 3: curve((0, 0.5), (0.3, 0.7))}
    half, late = compare(first, second, (0.5, 1.0))
    assert half["seeds"] == late["seeds"] == 2
    assert late["over_seeds"].mean == pytest.approx(0.215)
    assert half["over_seeds"].mean == pytest.approx(0.215 / 2)
    assert half["over_prompts"].mean == pytest.approx(0.215 / 2)
    assert not compare(first, second, (2.0,))


def test_one_number_over_all_kls():
    """Seed 1 differs by 0.1 and 0.12, seed 2 by 0.2 and 0.23; a KL that one seed alone reaches does not count."""
    first = {1: curve((0.5, 0.8), (1, 1.0)), 2: curve((0.5, 0.9), (0.7, 1.0)), 3: curve((2, 0.9))}
    second = {1: curve((0.5, 0.7), (1, 0.8)), 2: curve((0.5, 0.7), (1, 0.8)), 3: curve((0.5, 0.7))}
    seeds, found = over_all(first, second, (0.5, 0.6, 1.0))
    assert seeds == 2
    assert found.mean == pytest.approx(((0.1 + 0.12) / 2 + (0.2 + 0.23) / 2) / 2)
    assert over_all({1: first[1]}, second, (0.5,)) is None


def test_committed_tables_are_made_from_the_committed_records(tmp_path):
    write(RECORDS, tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.glob("*.md")}
    assert made == {file.name: file.read_text() for file in (HERE / "report").glob("*.md")}
    assert made
