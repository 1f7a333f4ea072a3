"""Methods at several weights of the KL, in a report."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from grade_lightning.report import main
from grade_lightning.reporting.output import tables
from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.sweep import equal_kl
from grade_lightning.reporting.variants import group
from tests.reporting.test_answer import run_at, said

KLS = {"0.5": 0.1, "0.1": 0.4, "0.02": 1.0}


def reward(kl: float, slope: float) -> float:
    """Its logit is a quadratic in the root of the KL, 0 at the initial policy."""
    return 1 / (1 + math.exp(-(slope * math.sqrt(kl) + 0.3 * kl)))


def write(root, method: str, slope: float, *, scale: float = 1.0, seeds=(1, 2, 3), **changes) -> None:
    """Three weights of each seed on one curve; the initial policy at 0.5, or ``scale`` times all of it."""
    for seed in seeds:
        for beta, kl in KLS.items():
            folder = run_at(root, method, seed, kls=[0, kl], rewards=[0.5, scale * reward(kl, slope)], kl_coef=float(beta), **changes)
            results = json.loads((folder / "results.json").read_text())
            results["initial"] |= {"reward_mean": scale * 0.5, "kl_mean": 0.0, "distinct_2": 0.7}
            results["test"] |= {"distinct_2": 0.7 - 0.1 * kl}
            (folder / "results.json").write_text(json.dumps(results))


def table_of(root):
    return equal_kl(group(read_runs(root)[0]))


def test_what_a_method_has_beyond_the_policy_gradient(tmp_path):
    write(tmp_path, "grade_ste", 3.0)
    write(tmp_path, "rloo", 2.0)
    table = table_of(tmp_path)
    (row,) = table.rows
    gain = np.mean([reward(kl, 3.0) - reward(kl, 2.0) for kl in np.geomspace(0.1, 1.0, 9)])
    assert (row["method"], row["reference"], row["kls"], row["seeds"]) == ("GRADE-STE", "RLOO", "0.10 to 1.00", 3)
    assert row["reward_mean"] == f"{gain:+.3f} [{gain:+.3f}, {gain:+.3f}]"
    assert row["distinct_2"].replace("-", "+") == "+0.000 [+0.000, +0.000]"
    assert not {"judge_mean", "perplexity"} & row.keys()  # not every run has them
    assert said(tmp_path)[1].endswith(f"beyond RLOO: GRADE-STE {row['reward_mean']} from 0.10 to 1.00.")


def test_rewards_beyond_0_and_1_are_fitted_as_they_are(tmp_path):
    write(tmp_path, "grade_ste", 3.0, scale=10.0)
    write(tmp_path, "rloo", 2.0, scale=10.0)
    gain = 10 * np.mean([reward(kl, 3.0) - reward(kl, 2.0) for kl in np.geomspace(0.1, 1.0, 9)])
    assert float(table_of(tmp_path).rows[0]["reward_mean"].split()[0]) == pytest.approx(gain, rel=0.02)


def test_other_rewards_are_not_compared_and_one_method_is_no_comparison(tmp_path):
    write(tmp_path, "rloo", 2.0, reward_fingerprint="a")
    assert table_of(tmp_path) is None
    write(tmp_path, "grade_ste", 3.0, reward_fingerprint="b")
    assert table_of(tmp_path) is None
    assert "equal_kl" not in tables(group(read_runs(tmp_path)[0]))
    write(tmp_path, "grpo", 2.0, reward_fingerprint="a", seeds=(1,))
    (row,) = table_of(tmp_path).rows
    assert (row["method"], row["kls"], row.get("reward_mean")) == ("GRPO", "too few runs", "")


def test_a_run_that_never_moved_has_no_place_on_a_curve(tmp_path):
    write(tmp_path, "grade_ste", 3.0)
    write(tmp_path, "rloo", 2.0)
    before = table_of(tmp_path).rows
    for method in ("rloo", "grade_ste"):
        run_at(tmp_path, method, 1, kls=[0, 0], rewards=[0.5, 0.5], kl_coef=9.0)
    assert table_of(tmp_path).rows[0]["reward_mean"] == before[0]["reward_mean"]


def test_it_is_in_the_report(tmp_path, monkeypatch):
    for method, slope in (("rloo", 2.0), ("grade_ste", 3.0)):
        write(tmp_path / "runs", method, slope)
    monkeypatch.setattr("sys.argv", ["report", str(tmp_path / "runs"), "--out", str(tmp_path / "out")])
    assert not main()
    assert {"equal_kl.md", "equal_kl.csv", "equal_kl.tex"} <= {file.name for file in (tmp_path / "out").iterdir()}
    assert "Beyond RLOO" in (tmp_path / "out" / "report.html").read_text()
    assert json.loads((tmp_path / "out" / "report.json").read_text())["equal_kl"][0]["seeds"] == 3
