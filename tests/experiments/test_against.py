"""Methods against one of them, by hand."""

from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from experiments.frontier.against import against, by_kl, by_steps, difference, forms, targets
from experiments.frontier.curves import Run, band, curves, fitter, jackknife
from experiments.frontier.report import steps_to, write
from experiments.frontier.study import CURVE, HERE, RECORDS
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
    """What a line in ln KL gets wrong: a weight near the initial policy bends it up at all others."""
    records = [run(f"rloo-beta{kl}-seed{s}", kl, on_curve(kl)) for s in (1, 2, 3) for kl in (0.3, 0.5, 0.8)]
    records += [run(f"grpo-beta{kl}-seed{s}", kl, on_curve(kl)) for s in (1, 2, 3) for kl in (0.02, 0.3, 0.5, 0.8)]
    table = {row["form"]: row for row in forms(records, [("grpo", "rloo"), ("ppo", "rloo")]).rows}
    used, line = table["cubic in root KL through the initial policy"], table["line in ln KL"]
    assert abs(float(used["grpo rloo"].split()[0])) < 1e-3
    assert float(line["grpo rloo"].split()[0]) > 0.004
    assert used["grpo"] < 1e-6 < 0.05 < line["grpo"]
    assert "ppo rloo" not in used


def test_errors_are_those_of_curves_without_the_run():
    runs = {
        1: [Run("a", kl, {"reward_mean": on_curve(kl, 3 + kl)}) for kl in (0.1, 0.3, 0.7, 0.9)],
        2: [Run("b", 1.3, {"reward_mean": 0.9})],
    }
    found = curves([run(f"x-beta{one.beta}-seed{seed}", one.kl, one.values["reward_mean"]) for seed, own in runs.items() for one in own])
    fits, every = fitter(found, "reward_mean"), [(seed, one) for seed, own in runs.items() for one in own]
    for place, (_, one) in enumerate(every):
        others = [pair for at, pair in enumerate(every) if at != place]
        rest = fits.fit({s: [o for own, o in others if own == s] for s in {own for own, _ in others}}, 2)
        reward = one.values["reward_mean"]
        expected = math.log(reward / (1 - reward)) - float(rest.transformed(np.asarray([one.kl]))[0])
        assert fits.left_out(found.methods["x"])[place] == pytest.approx(expected)


def test_differences_at_single_kls_are_those_of_the_curves():
    records = [
        run(f"{m}-beta{kl}-seed{s}", kl, on_curve(kl, h)) for s in (1, 2, 3) for kl in (0.2, 0.6, 1.0) for m, h in (("a", 4.0), ("b", 3.0))
    ]
    (row, none) = by_kl(records, "a", ["b", "c"]).rows
    gain = on_curve(0.5, 4.0) - on_curve(0.5)
    assert row["0.5"] == f"{gain:+.3f} [{gain:+.3f}, {gain:+.3f}]"
    assert row["0.1"] == row["1.2"] == none["0.5"] == ""


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
