"""Methods against one of them, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from experiments.frontier.against import against, by_steps, targets


def run(name: str, kl: float = 1.0, reward: float = 0.5, validation: Any = (), **more: float) -> Any:
    test = {"kl_mean": kl, "reward_mean": reward, "judge_mean": 0.5, "distinct_2": 0.5, "perplexity": 40.0, **more}
    return SimpleNamespace(
        name=name, results={"test": test, "validation": [{"step": s, "reward_mean": r, "kl_mean": kl} for s, r, kl in validation]}
    )


def test_differences_at_equal_kl_over_seeds():
    """Runs at the ends of 0.25 to 1: a constant difference is found whatever lies between; a factor is of perplexities."""
    records = []
    for seed, gain in ((1, 0.10), (2, 0.20)):
        records += [run(f"rloo-beta{b}-seed{seed}", kl, r) for b, kl, r in (("0.5", 0.25, 0.6), ("0.1", 1.0, 0.8))]
        records += [
            run(f"plain-beta{b}-seed{seed}", kl, r + gain, perplexity=80.0, distinct_2=0.6)
            for b, kl, r in (("0.2", 0.25, 0.6), ("0.02", 1.0, 0.8))
        ]
    records.append(run("ppo-beta0.1-seed1", 5.0))
    plain, ppo = against(records).rows
    assert (plain["method"], plain["kls"], plain["seeds"]) == ("plain", "0.3 to 1.0", 2)
    assert plain["reward_mean"].startswith("+0.150 [")
    assert plain["distinct_2"] == "+0.100 [+0.100, +0.100]"
    assert plain["perplexity"] == "2.00 [2.00, 2.00]"
    assert (ppo["kls"], ppo["seeds"], ppo["reward_mean"]) == ("none in common", 0, "")


def test_interpolation_is_linear_in_the_root():
    """At 0.4 the line in the root from 0.6 at 0.16 to 0.8 at 0.64 is at 0.6 + 0.2 (sqrt(0.4) - 0.4) / 0.4."""
    records = [run(f"rloo-beta{kl}-seed1", kl, r) for kl, r in ((0.16, 0.6), (0.64, 0.8))]
    records += [run(f"plain-beta{kl}-seed1", kl, 0.9) for kl in (0.36, 0.44)]
    (row,) = against(records).rows
    assert float(row["reward_mean"]) == pytest.approx(0.9 - (0.6 + 0.2 * (0.4**0.5 - 0.4) / 0.4), abs=5e-4)


def test_steps_to_a_reward_at_a_kl():
    """The setting in which all seeds get there is better than a faster one in which two of three do; KL counts too."""
    slow = [run(f"rloo-beta0.2-seed{s}", validation=[(0, 0.5, 0), (30, 0.7, 0.2), (60, 0.81, 0.29)]) for s in (1, 2, 3)]
    fast = [run(f"rloo-beta0.1-seed{s}", validation=[(0, 0.5, 0), (10, 0.9, 0.25 + 0.05 * s)]) for s in (-1, 0, 2)]
    found = {row["target"]: row for row in targets({"low": slow, "high": fast}, ("rloo",), {}).rows}
    assert (found["0.8 at 0.3"]["setting"], found["0.8 at 0.3"]["seeds"], found["0.8 at 0.3"]["steps"]) == ("low, beta 0.2", "3 of 3", 60)
    assert (found["0.9 at 0.5"]["setting"], found["0.9 at 0.5"]["seeds"], found["0.9 at 0.5"]["steps"]) == ("high, beta 0.1", "3 of 3", 10)
    assert (found["0.95 at 1"]["seeds"], found["0.95 at 1"]["steps"]) == ("none", None)


def test_differences_while_training():
    """After ten steps the method is 0.2 above at the KLs that both then enclose; after twenty its KLs have left the other's."""
    records = [run(f"rloo-beta{kl}-seed1", validation=[(0, 0.5, 0), (10, r, kl), (20, r, kl)]) for kl, r in ((0.25, 0.6), (1.0, 0.6))]
    records += [run(f"plain-beta{kl}-seed1", validation=[(0, 0.5, 0), (10, 0.8, kl), (20, 0.9, kl + 3)]) for kl in (0.36, 0.64)]
    (row,) = by_steps(records, (10, 20)).rows
    assert (row["10"], row["20"]) == ("+0.200 at 0.4 to 0.6", "")
