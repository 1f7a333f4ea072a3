"""The study of a larger base: which rates follow from its sweep, and what is run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from experiments.frontier.larger import LOWER, RECORDS, SWEPT, rates, slow
from experiments.imdb_small.study import RATES, best_swept
from experiments.queue import ran_with
from grade_lightning.records.study_table import read_table


def swept(rewards: dict[str, tuple[float, float]]) -> list[Any]:
    """Runs by name with the reward and the KL that they ended at."""
    return [
        SimpleNamespace(name=name, results={"validation": [{"reward_mean": 0.4, "kl_mean": 0.0}, {"reward_mean": r, "kl_mean": kl}]})
        for name, (r, kl) in rewards.items()
    ]


def test_best_is_reward_less_a_tenth_of_the_kl_at_the_last_validation():
    found = swept({"rloo-3e-4": (0.8, 0.1), "rloo-1e-3": (0.9, 0.5), "rloo-3e-3": (0.95, 2.0)})
    assert best_swept(found, "rloo") == "1e-3"
    with pytest.raises(LookupError):
        best_swept(found[:2], "rloo")


def test_every_method_runs_below_the_rate_that_its_sweep_found(tmp_path):
    """In the committed records, the mixture at RLOO's; nothing is run before the sweep is whole."""
    with pytest.raises((LookupError, FileNotFoundError)):
        slow(tmp_path / "none.parquet")
    assert {cell.name for cell in rates(tmp_path / "none.parquet")} == {f"{m}-{rate}" for m in SWEPT for rate in RATES}
    cells = {cell.name: cell.overrides for cell in slow(RECORDS)}
    chosen = {method: next(o for o in cells[f"{method}-beta0.05-seed1"] if "lr=" in o) for method in ("rloo", "plain", "annealed")}
    found = read_table(RECORDS, part="rates")
    assert [chosen[m] for m in SWEPT] == [f"optimizer.lr={LOWER[best_swept(found, m)]}" for m in SWEPT]
    assert all(float(LOWER[rate]) < float(rate) for rate in RATES)
    assert chosen["annealed"] == chosen["rloo"]
    for record in read_table(RECORDS, part="slow"):
        assert all(ran_with(record, override) for override in cells[record.name])
        assert record.environment["git_dirty"] is False
