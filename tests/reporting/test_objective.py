"""What the KL weighs, in words."""

from __future__ import annotations

from pathlib import Path

import pytest

from grade_lightning.reporting.objective import kl_weight
from grade_lightning.reporting.read import Run


def run(method: str, scale: float | None = None, **config: str) -> Run:
    metrics = {} if scale is None else {"train/reward_scale": [scale, scale]}
    values = {"kl_coef": "0.1", "protocol.kl_in": "loss", **{key.replace("__", "."): value for key, value in config.items()}}
    return Run(Path(method), {"method": method}, metrics, [], values, {})


def measured(method: str, gain: str) -> Run:
    """A relaxed method's run that logged the length of its reward gradient."""
    made = run(method, method__tol="0.001", method__reward_gain=gain)
    made.metrics["train/reward_grad_norm"] = [1.0]
    return made


def test_the_average_scale_counts_where_it_was_measured():
    made = run("grpo", 5.0)
    made.metrics["train/average_scale"] = [0.08, 0.08]
    assert kl_weight(made) == "0.1: 1.2"
    made.config["method.match_kl"] = "True"
    assert kl_weight(made) == "0.1: the same"


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (run("rloo", 1.0), "0.1: the same"), (run("rloo"), "0.1: the same"), (run("ppo"), "0.1: not measured"),
        (run("ppo", 0.06), "0.1: 1.7"),
        (run("grpo", 0.08, method__match_kl="True"), "0.1: the same, batch by batch"), (run("grpo", 0.08), "0.1: 1.2"),
        (run("grade_ste", method__tol="0.001"), "0.1: 0.1 / c"),
        (run("grade_ste", method__tol="0.001", method__reward_gain="calibrated"), "0.1: not measured"),
        (run("grade_ste", method__tol="0.001", method__reward_gain="3.0"), "0.1: 0.1 / (3.0 c)"),
        (run("hybrid", method__tol="0.001"), "0.1: not measured"), (run("residual", method__tol="0.001"), "0.1: in between"),
        (measured("hybrid", "none"), "0.1: about the same"), (measured("hybrid", "2.5"), "0.1: about 0.04"),
        (run("residual", method__tol="0.001", method__reward_gain="calibrated"), "0.1: about the same"),
        (run("annealed", method__tol="0.001", method__reward_gain="3.0"), "0.1: 0.1 / (3.0 c) at first, the same in the end"),
        (run("rloo", protocol__kl_in="none"), "0"), (run("ppo", protocol__kl_in="reward"), "0.1: the same"),
        (run("rloo", protocol__kl_reduction="sequence"), "0.1 a completion: the same"),
        (Run(Path("x"), {"method": "x"}, {}, [], {}, {}), ""),
    ],
)  # fmt: skip
def test_it_says_what_is_known(made, expected):
    assert kl_weight(made) == expected
