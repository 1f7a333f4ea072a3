"""Gao's forms against numbers made by them, and committed tables against the committed records."""

from __future__ import annotations

import numpy as np
import pytest

from experiments.overoptimisation.fits import at, by_curves, fit, write
from experiments.overoptimisation.study import HERE, MEASURED, RECORDS


@pytest.mark.parametrize("best_of_n", [False, True])
def test_a_form_is_found_again_from_its_own_values(best_of_n):
    d = np.linspace(0.5, 6, 12)
    gain = d * (0.11 - 0.02 * (d if best_of_n else np.log(d)))
    assert fit(d, gain, best_of_n=best_of_n) == pytest.approx((0.11, 0.02))


def test_a_rise_is_read_where_a_path_first_comes_to_a_kl():
    path = {"d": np.asarray([0.0, 1.0, 3.0, 2.0]), "gold": np.asarray([0.0, 0.1, 0.3, 0.9])}
    assert at(path, 4.0, "gold") == pytest.approx(0.2)
    assert np.isnan(at(path, 16.0, "gold"))


def rising(height: float, steps: np.ndarray) -> dict[str, np.ndarray]:
    """A run whose logits rise in proportion to sqrt(KL) from the initial policy's 0, in both rewards."""
    rise = 1 / (1 + np.exp(-height * steps)) - 0.5
    return {"d": steps, "gold": rise, "judge": rise}


def test_curves_tell_paths_apart_whatever_the_kls_at_which_they_were_measured():
    few, many = np.linspace(0, 6, 7), np.linspace(0, 6, 25)
    heights = {"plain": 0.3, "rloo": 0.25, "rloo_slow": 0.3}
    found = {(m, 100, seed): rising(h, many if m == "rloo" else few) for m, h in heights.items() for seed in (1, 2, 3)}
    above, same, slow = by_curves(found, {"gold": 0.5, "judge": 0.5}).rows
    mean, low, high = (float(part.strip("[],")) for part in above["reward_mean"].split())
    assert 0.02 < low == mean == high < 0.05
    assert float(same["reward_mean"].split()[0]) == pytest.approx(0, abs=1e-3)
    assert slow["runs"] == 3
    assert slow["judge_mean"].split()[0] == slow["reward_mean"].split()[0]


def test_committed_tables_are_made_from_the_committed_records(tmp_path):
    write(RECORDS, MEASURED, tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.glob("*.md")}
    assert made == {name: (HERE / name).read_text() for name in ("equal_kl.md", "fits.md")}
