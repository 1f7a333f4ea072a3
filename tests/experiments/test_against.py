"""Methods against one of them, by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.against import against, by_band, by_cost, by_steps, forms, targets
from experiments.curves import curves, left_out
from experiments.frontier.report import steps_to, write
from experiments.frontier.study import CURVE, HERE, RECORDS
from grade_lightning.reporting.equal_kl import QUANTITIES, band, difference, fitter, jackknife
from grade_lightning.reporting.significance import few_interval

START = {"kl_mean": 0.0, "reward_mean": 0.5, "judge_mean": 0.5, "distinct_2": 0.7, "perplexity": 30.0}


def run(name: str, kl: float = 1.0, reward: float = 0.5, validation: Any = (), **more: float) -> Any:
    test = {**START, "kl_mean": kl, "reward_mean": reward, **more}
    rows = [{"step": s, "reward_mean": r, "kl_mean": k} for s, r, k in ((0, 0.5, 0.0), *validation)]
    return SimpleNamespace(name=name, results={"initial": START, "test": test, "validation": rows})


def on_curve(kl: float, slope: float = 3.0) -> float:
    """A reward whose logit is a quadratic in root KL through the initial policy's."""
    return 1 / (1 + math.exp(-(slope * math.sqrt(kl) + 0.5 * kl)))


def test_differences_at_equal_kl_whatever_the_weights():
    """Two methods on one curve differ by nothing, though one has two weights far apart and the other five; a factor is of perplexities."""
    records = [run(f"rloo-beta{kl}-seed{s}", kl, on_curve(kl)) for s in (1, 2, 3) for kl in (0.2, 0.4, 0.6, 0.8, 1.5)]
    records += [
        run(f"plain-beta{kl}-seed{s}", kl, on_curve(kl), perplexity=30.0 * math.exp(math.sqrt(kl)), distinct_2=0.7 + 0.1 * kl)
        for s in (1, 2, 3) for kl in (0.25, 1.2)
    ]  # fmt: skip
    records.append(run("ppo-beta0.1-seed1", 5.0))
    plain, ppo = against(records).rows
    assert (plain["method"], plain["kls"], plain["seeds"]) == ("plain", "0.25 to 1.20", 3)
    assert plain["reward_mean"].replace("-", "+") == "+0.000 [+0.000, +0.000]"
    kls = np.geomspace(0.25, 1.2, 9)
    more, factor = float(np.mean(0.1 * kls)), math.exp(float(np.mean(np.sqrt(kls))))
    assert plain["distinct_2"] == f"{more:+.3f} [{more:+.3f}, {more:+.3f}]"
    assert plain["perplexity"] == f"{factor:.2f} [{factor:.2f}, {factor:.2f}]"
    assert (ppo["kls"], ppo["seeds"], ppo["reward_mean"]) == ("too few runs", 0, "")


def test_a_weight_more_does_not_move_a_comparison_on_one_curve():
    """What a line in ln KL gets wrong: a weight near the initial policy bends it at all others."""
    records = [run(f"rloo-beta{kl}-seed{s}", kl, on_curve(kl)) for s in (1, 2, 3) for kl in (0.3, 0.5, 0.8)]
    records += [run(f"grpo-beta{kl}-seed{s}", kl, on_curve(kl)) for s in (1, 2, 3) for kl in (0.02, 0.05, 0.3, 0.8)]
    table = {row["form"]: row for row in forms(records, [("grpo", "rloo"), ("ppo", "rloo")]).rows}
    used, line = table["quadratic in root KL"], table["line in ln KL"]
    assert abs(float(used["grpo rloo"].split()[0])) < 1e-3
    assert abs(float(line["grpo rloo"].split()[0])) > 0.005
    assert used["grpo"] < 1e-6 < 0.005 < line["grpo"]
    assert "ppo rloo" not in used


def test_errors_are_those_of_curves_without_the_seed():
    """Two seeds on curves of their own: each is as far from the other's as they are apart."""
    slopes = {1: 2.0, 2: 2.5}
    records = [run(f"x-beta{kl}-seed{s}", kl, on_curve(kl, slope)) for s, slope in slopes.items() for kl in (0.1, 0.4, 0.9)]
    found = curves(records)
    apart = [on_curve(kl, 2.0) - on_curve(kl, 2.5) for kl in (0.1, 0.4, 0.9)]
    assert left_out(fitter(found, QUANTITIES[0]), found.methods["x"]) == pytest.approx([*apart, *(-gap for gap in apart)], abs=1e-9)


def test_runs_near_1_do_not_steer_the_rest():
    """An error of 0.01 at 0.985 is as large a change of the logit as one of 0.2 at 0.7: it counts as 0.01."""
    kls = (0.1, 0.2, 0.3, 0.5, 0.8, 2.0)
    found = curves([run(f"x-beta{kl}-seed{s}", kl, on_curve(kl, 2.0) + 0.012 * (kl == 2.0)) for s in (1, 2) for kl in kls])
    fits, at = fitter(found, QUANTITIES[0]), np.geomspace(0.1, 0.8, 9)
    expected = [on_curve(kl, 2.0) for kl in at]
    kl, values = fits.columns(found.methods["x"])
    plain = np.polyfit(np.sqrt(kl), values, 2)
    without_weights = 1 / (1 + np.exp(-np.polyval(plain, np.sqrt(at))))
    with_weights = fits.fit(found.methods["x"]).heights(at)
    assert np.abs(with_weights - expected).max() < 0.3 * np.abs(without_weights - expected).max()


def test_differences_in_bands_are_those_of_the_curves():
    records = [
        run(f"{m}-beta{kl}-seed{s}", kl, on_curve(kl, h)) for s in (1, 2, 3) for kl in (0.15, 0.6, 0.7) for m, h in (("a", 2.5), ("b", 2.0))
    ]
    (row,) = by_band(records, [("a", "b"), ("a", "c")], {"a": "A"}).rows
    gain = np.mean([on_curve(kl, 2.5) - on_curve(kl, 2.0) for kl in np.geomspace(0.2, 0.35, 9)])
    assert row["pair"] == "A beyond b"
    assert row["0.2"] == f"{gain:+.3f} [{gain:+.3f}, {gain:+.3f}]"
    assert row["0.1"].endswith("(0.15 to 0.20)")
    assert row["0.35"].endswith("(0.35 to 0.70)")
    assert row["0.8"] == ""


def test_a_method_against_another_that_has_made_more_steps():
    """At step 60 the one is where the other is at 120."""
    records = [
        run(f"{m}-beta{kl}-seed{s}", validation=[(60, on_curve(kl, early), kl), (120, on_curve(kl, late), kl)])
        for s in (1, 2, 3) for kl in (0.2, 0.6, 1.0) for m, early, late in (("a", 2.0, 2.5), ("b", 1.0, 2.0))
    ]  # fmt: skip
    same, more = by_cost(records, "a", ["b"], [(60, 120), (60, 60)]).rows
    assert same["b"].replace("-", "+").startswith("+0.000")
    assert float(more["b"].split()[0]) > 0.05


def test_interval_is_that_of_the_seeds_differences():
    """Seeds with differences of their own: nearly the mean of these, and Student's interval of theirs."""
    records = [
        run(f"{m}-beta{kl}-seed{s}", kl, on_curve(kl, slope))
        for s, gain in enumerate((0.1, 0.2, 0.3)) for m, slope in (("rloo", 1.0), ("plain", 1.0 + gain)) for kl in (0.5, 0.7, 0.8, 1.0)
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


def test_a_band_is_the_jackknife_over_seeds_and_needs_three():
    records = [run(f"a-beta{kl}-seed{s}", kl, on_curve(kl, 2.0 + 0.1 * s)) for s in range(3) for kl in (0.2, 0.4, 0.8)]
    kls = np.asarray([0.3, 0.5])
    low, middle, high = band(curves(records), "a", kls)
    logits = [[(2.0 + 0.1 * s) * math.sqrt(kl) + 0.5 * kl for s in range(3)] for kl in kls]
    for place, own in enumerate(logits):  # on the curves' own form leaving out a seed is exact
        said = jackknife(float(np.mean(own)), [float(np.mean([x for t, x in enumerate(own) if t != s])) for s in range(3)])
        expected = [1 / (1 + math.exp(-side)) for side in (said.low, said.mean, said.high)]
        assert [low[place], middle[place], high[place]] == pytest.approx(expected)
    low, middle, high = band(curves(records[:3]), "a", kls)
    assert low.tolist() == middle.tolist() == high.tolist() == pytest.approx([on_curve(kl, 2.0) for kl in kls])


def test_steps_to_a_reward_at_a_kl():
    """A weight with which all seeds get there late is better than one with which two of five get there early; KL counts too."""
    late = [run(f"rloo-beta0.2-seed{s}", validation=[(30, 0.7, 0.2), (60, 0.81, 0.29)]) for s in range(5)]
    early = [run(f"rloo-beta0.1-seed{s}", validation=[(30, 0.9, 0.2 + 0.1 * s), (60, 0.9, 0.9)]) for s in range(5)]
    found = {row["target"]: row for row in targets([*late, *early], ("rloo", "ppo"), {"ppo": "PPO"}).rows if row["method"] == "rloo"}
    assert (found["0.8 at 0.3"]["beta"], found["0.8 at 0.3"]["steps"]) == ("0.2", "60 60 60 60 60")
    assert (found["0.9 at 0.5"]["beta"], found["0.9 at 0.5"]["steps"]) == ("0.1", "30 30 30 30 never")
    assert found["0.95 at 1"]["steps"] == "never never never never never"
    assert {row["steps"] for row in targets(late, ("ppo",), {}).rows} == {"not run"}


def test_differences_while_training():
    """After ten steps the method is above at the KLs that both then enclose; after twenty its KLs have left the other's."""
    records = [
        run(f"{m}-beta{kl}-seed{s}", validation=[(10, on_curve(kl, 1.5) + gain, kl), (20, 0.9, kl + away)])
        for s in (1, 2) for kl in (0.4, 0.7) for m, gain, away in (("rloo", 0.0, 0.0), ("plain", 0.1, 3.0))
    ]  # fmt: skip
    late = run("plain-beta9-seed3", validation=[(20, 0.9, 0.5)])
    (row,) = by_steps([*records, late], (10, 20)).rows
    assert row["seeds"] == 2
    assert float(row["10"].split()[0]) == pytest.approx(0.1, abs=0.005)
    assert row["10"].endswith("at 0.4 to 0.7")
    assert row["20"] == ""


def test_steps_to_a_share_of_the_rise():
    """From 0.5 to 0.9 in one jump at step 40: the mean of ten steps passes 0.86 when nine of them are after it."""
    one = run("rloo-beta0.1-seed1")
    one.metrics = {"train/reward": [None, *[0.5] * 40, *[0.9] * 80]}
    assert steps_to(0.9, one) == 45
    one.metrics = {"train/reward": [0.9] * 12}
    assert steps_to(0.9, one) == 6


def test_committed_tables_are_made_from_the_committed_records(tmp_path):
    write(RECORDS, json.loads(CURVE.read_text())["curve"], tmp_path)
    made = {file.name: file.read_text() for file in tmp_path.glob("*.md")}
    assert made == {file.name: file.read_text() for file in (HERE / "report").glob("*.md")}
    assert {"slow.md", "targets.md", "by_steps.md"} <= made.keys()
