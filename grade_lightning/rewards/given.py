"""A reward that the Python API was given: see :mod:`grade_lightning.given`."""

from __future__ import annotations

from typing import Any

from grade_lightning.given import given
from grade_lightning.rewards.base import Reward, RewardInputs
from grade_lightning.rewards.function import FunctionReward


def given_reward(inputs: RewardInputs, *, name: str) -> tuple[Reward, dict[str, Any]]:
    """The reward group's ``given``, and its report.

    Args:
        inputs: what a run gives to rewards; lent to a reward that has a method ``lend``.
        name: in this process.

    Raises:
        ValueError: this process was given no such reward.
    """
    thing: Any = given(name)
    if hasattr(thing, "score"):
        if hasattr(thing, "lend"):
            thing.lend(inputs)
        return thing, {"given": name}
    function: Any = FunctionReward(thing, name)
    return function, {"function": name}
