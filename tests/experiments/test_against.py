"""Methods against one of them, by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.frontier.against import against, band, by_steps, curves, difference, targets
from experiments.frontier.report import write
from experiments.frontier.study import CURVE, HERE, RECORDS
from grade_lightning.reporting.significance import few_interval


def run(name: str, kl: float = 1.0, reward: float = 0.5, validation: Any = (), **more: float) -> Any:
    test = {"kl_mean": kl, "reward_mean": reward, "judge_mean": 0.5, "distinct_2": 0.5, "perplexity": 40.0, **more}
    return SimpleNamespace(
        name=name, results={"test": test, "validation": [{"step": s, "reward_mean": r, "kl_mean": kl} for s, r, kl in validation]}
    )


def on_line(kl: float, height: float = 2.0) -> float:
    """A reward whose logit is a line in ln KL."""
    return 1 / (1 + math.exp(-(height + 1.4 * math.log(kl))))


def test_differences_at_equal_kl_whatever_the_weights():
    """Two methods on one line differ by nothing, though one has two weights far apart and the other five; a factor is of perplexities."""
    records = [run(f"rloo-beta{kl}-seed{s}", kl, on_line(kl)) for s in (1, 2, 3) for kl in (0.2, 0.4, 0.6, 0.8, 1.5)]
    records += [run(f"plain-beta{kl}-seed{s}", kl, on_line(kl), perplexity=80.0, distinct_2=0.6) for s in (1, 2, 3) for kl in (0.25, 1.2)]
    records.append(run("ppo-beta0.1-seed1", 5.0))
    plain, ppo = against(records).rows
    assert (plain["method"], plain["kls"], plain["seeds"]) == ("plain", "0.25 to 1.20", 3)
    assert plain["reward_mean"].replace("-", "+") == "+0.000 [+0.000, +0.000]"
    assert plain["distinct_2"] == "+0.100 [+0.100, +0.100]"
    assert plain["perplexity"] == "2.00 [2.00, 2.00]"
    assert (ppo["kls"], ppo["seeds"], ppo["reward_mean"]) == ("too few runs", 0, "")


def test_interval_is_that_of_the_seeds_differences():
    """Seeds with differences of their own: nearly the mean of these, and Student's interval of theirs."""
    records = [
        run(f"{m}-beta{kl}-seed{s}", kl, on_line(kl, height))
        for s, gain in enumerate((0.1, 0.2, 0.3)) for m, height in (("rloo", 0.0), ("plain", gain)) for kl in (0.5, 0.7, 0.8, 1.0)
    ]  # fmt: skip
    each = [difference(curves([r for r in records if r.name.endswith(f"seed{s}")]), "plain", "rloo") for s in range(3)]
    expected = few_interval([one.values["reward_mean"][0] for one in each])
    mean, interval = difference(curves(records), "plain", "rloo").values["reward_mean"]
    assert mean == pytest.approx(expected.mean, rel=0.01)
    assert (interval.low, interval.high) == (pytest.approx(expected.low, rel=0.2, abs=2e-3), pytest.approx(expected.high, rel=0.1))
    assert [one.values["reward_mean"][1] for one in each] == [None] * 3
    two = difference(curves([r for r in records if not r.name.endswith("seed2")]), "plain", "rloo")
    assert two.seeds == 2
    assert two.values["reward_mean"][1] is None  # two values that agree say nothing of the third


def test_methods_without_a_common_kl_are_not_compared_and_said_to_be_so():
    records = [
        run(f"{m}-beta{kl}-seed{s}", kl + away, 0.7) for s in (1, 2, 3) for kl in (0.2, 0.4) for m, away in (("rloo", 0.0), ("ste", 1.0))
    ]
    (row,) = against(records).rows
    assert (row["kls"], row["seeds"], row["reward_mean"]) == ("none: 1.20 is above 0.40", 3, "")


def test_a_band_needs_three_seeds():
    own = {s: [(kl, {"reward_mean": on_line(kl, 2.0 + 0.1 * s)}) for kl in (0.2, 0.4, 0.8)] for s in range(3)}
    kls = np.asarray([0.3, 0.5])
    low, middle, high = band(own, kls)
    assert (low < middle).all()
    assert (middle < high).all()
    low, middle, high = band({0: own[0]}, kls)
    assert low.tolist() == middle.tolist() == high.tolist() == pytest.approx([on_line(kl) for kl in kls])


def test_steps_to_a_reward_at_a_kl():
    """A weight with which all seeds get there late is better than one with which two of five get there early; KL counts too."""
    late = [run(f"rloo-beta0.2-seed{s}", validation=[(0, 0.5, 0), (30, 0.7, 0.2), (60, 0.81, 0.29)]) for s in range(5)]
    early = [run(f"rloo-beta0.1-seed{s}", validation=[(0, 0.5, 0), (30, 0.9, 0.2 + 0.1 * s), (60, 0.9, 0.9)]) for s in range(5)]
    found = {row["target"]: row for row in targets([*late, *early], ("rloo", "ppo"), {"ppo": "PPO"}).rows if row["method"] == "rloo"}
    assert (found["0.8 at 0.3"]["beta"], found["0.8 at 0.3"]["steps"]) == ("0.2", "60 60 60 60 60")
    assert (found["0.9 at 0.5"]["beta"], found["0.9 at 0.5"]["steps"]) == ("0.1", "30 30 30 30 never")
    assert found["0.95 at 1"]["steps"] == "never never never never never"
    assert {row["steps"] for row in targets(late, ("ppo",), {}).rows} == {"not run"}


def test_differences_while_training():
    """After ten steps the method is above at the KLs that both then enclose; after twenty its KLs have left the other's."""
    records = [
        run(f"{m}-beta{kl}-seed{s}", validation=[(0, 0.5, 0), (10, on_line(kl) + gain, kl), (20, 0.9, kl + away)])
        for s in (1, 2) for kl in (0.4, 0.7) for m, gain, away in (("rloo", 0.0, 0.0), ("plain", 0.1, 3.0))
    ]  # fmt: skip
    late = run("plain-beta9-seed3", validation=[(0, 0.5, 0), (20, 0.9, 0.5)])
    (row,) = by_steps([*records, late], (10, 20)).rows
    assert row["seeds"] == 2
    assert float(row["10"].split()[0]) == pytest.approx(0.1, abs=0.005)
    assert row["10"].endswith("at 0.4 to 0.7")
    assert row["20"] == ""


def test_committed_tables_are_made_from_the_committed_records(tmp_path):
    write(RECORDS, json.loads(CURVE.read_text())["curve"], tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.glob("*.md")}
    assert made == {file.name: file.read_text() for file in (HERE / "report").glob("*.md")}
    assert {"slow.md", "targets.md", "by_steps.md"} <= made.keys()
