"""A weighted sum of rewards, each part of which is logged on its own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from grade_lightning.rewards.base import Completions, Reward, RewardInputs, scored


class SumReward(nn.Module):
    """sum_i w_i r_i; differentiable where every part is.

    Args:
        parts: rewards by name.
        weights: of each part.
    """

    def __init__(self, parts: Mapping[str, Reward], weights: Mapping[str, float]):
        super().__init__()
        self.parts, self.weights = dict(parts), dict(weights)
        self._modules_of_parts = nn.ModuleList([part for part in parts.values() if isinstance(part, nn.Module)])  # move with this one
        self.differentiable = all(part.differentiable for part in parts.values())
        self.soft = all(part.soft for part in parts.values())
        self.vocabulary = next((part.vocabulary for part in parts.values() if part.vocabulary is not None), None)
        self.reads_states = any(part.reads_states for part in parts.values())
        self.range = self._range()

    def _range(self) -> tuple[float | None, float | None]:
        ends: list[list[float | None]] = [[], []]
        for name, part in self.parts.items():
            weight = self.weights[name]
            low, high = part.range if weight >= 0 else part.range[::-1]
            for place, end in enumerate((low, high)):
                ends[place].append(None if end is None else weight * end)
        low, high = (None if None in values else sum(v for v in values if v is not None) for values in ends)
        return low, high

    def score_with_parts(self, completions: Completions) -> tuple[Tensor, dict[str, Tensor]]:
        """[B] the weighted sum, and the scores of each part before its weight; those of a sum inside are named after both."""
        found: dict[str, Tensor] = {}
        total: Tensor | None = None
        for name, part in self.parts.items():
            scores, inner, _ = scored(part, completions)
            found |= {name: scores, **{f"{name}_{own}": values for own, values in inner.items()}}
            total = self.weights[name] * scores if total is None else total + self.weights[name] * scores
        assert total is not None, "a sum has parts"
        return total, found

    def score(self, completions: Completions) -> Tensor:
        """[B] the weighted sum of the parts' scores."""
        return self.score_with_parts(completions)[0]

    def scoped(self, scope: str) -> SumReward | None:
        """The sum of its parts in another scope; None where one of them knows no scopes."""
        parts = {name: part.scoped(scope) for name, part in self.parts.items()}
        return SumReward({n: p for n, p in parts.items() if p is not None}, self.weights) if None not in parts.values() else None


def sum_reward(
    inputs: RewardInputs, *, parts: Mapping[str, tuple[Reward, dict[str, Any]]], weights: Mapping[str, float]
) -> tuple[SumReward, dict[str, Any]]:
    """The reward group's ``sum``, and its report.

    Args:
        inputs: what a run gives to rewards; the parts were made from them.
        parts: rewards and their reports, by name.
        weights: by name; 1 where none is given.
    """
    chosen = {name: float(weights.get(name, 1.0)) for name in parts}
    made = SumReward({name: reward for name, (reward, _) in parts.items()}, chosen)
    return made, {"weights": chosen, "parts": {name: report for name, (_, report) in parts.items()}}
