"""Temperature schedules tau(step) of the relaxation."""

from __future__ import annotations

import math
from collections.abc import Mapping


def linear_temperature(step: int, *, start: float, end: float, anneal_steps: int) -> float:
    """Linear annealing (eq. 15): start at step 0, end from ``anneal_steps`` on.

        tau(t) = start - (t / anneal_steps) (start - end)

    Args:
        step: number of policy steps already made.
        start: temperature at step 0, > 0.
        end: temperature from ``anneal_steps`` on, > 0.
        anneal_steps: length of the annealing in policy steps, >= 1.
    """
    _check(start, end, anneal_steps)
    return start - min(step / anneal_steps, 1.0) * (start - end)


def constant_temperature(step: int, *, value: float) -> float:
    """tau(t) = value: the temperature does not change."""
    _check(value, value, 1)
    return value


def cosine_temperature(step: int, *, start: float, end: float, anneal_steps: int) -> float:
    """tau falls along half a cosine from start at step 0 to end at ``anneal_steps`` and stays there."""
    _check(start, end, anneal_steps)
    return end + 0.5 * (start - end) * (1.0 + math.cos(math.pi * min(step / anneal_steps, 1.0)))


def exponential_temperature(step: int, *, start: float, end: float, anneal_steps: int) -> float:
    """tau shrinks by one factor a step from start at step 0 to end at ``anneal_steps`` and stays there (Jang et al. 2017)."""
    _check(start, end, anneal_steps)
    return start * (end / start) ** min(step / anneal_steps, 1.0)


class AdaptiveTemperature:
    """tau steered so that a measured quantity stays near a target: a controller in log tau, clipped to a range.

        log tau  <-  log tau + rate * sign * (target - measured) / target,        start at step 1

    Args:
        start: tau before anything is measured.
        metric: name of a quantity that the method measures at each step, e.g. ``largest_weight`` (mean largest token weight,
            which falls as tau rises) or ``first_ratio`` (size of the first adjoint term, which falls as tau rises).
        target: wanted value, > 0.
        rate: step size of the controller per policy step.
        falls_with_tau: whether a higher tau lowers the quantity.
        minimum: lowest tau.
        maximum: highest tau.
    """

    def __init__(
        self,
        start: float,
        metric: str,
        target: float,
        *,
        rate: float = 0.1,
        falls_with_tau: bool = True,
        minimum: float = 0.1,
        maximum: float = 5.0,
    ):
        _check(minimum, maximum, 1)
        if not minimum <= start <= maximum or target <= 0 or rate <= 0:
            raise ValueError(
                f"need minimum <= start <= maximum, target > 0 and rate > 0, got {start=}, {minimum=}, {maximum=}, {target=}, {rate=}"
            )
        self.metric, self.target, self.rate = metric, target, rate
        self.sign = -1.0 if falls_with_tau else 1.0
        self.minimum, self.maximum, self.tau = minimum, maximum, float(start)

    def __call__(self, step: int) -> float:
        """The temperature now; the controller has no memory of other steps."""
        return self.tau

    def observe(self, measured: Mapping[str, float]) -> None:
        """Take what a policy step measured and move tau for the next one.

        Raises:
            ValueError: the metric was not measured.
        """
        if self.metric not in measured:
            raise ValueError(f"temperature.metric={self.metric} is not measured by this method: it measures {', '.join(sorted(measured))}")
        error = (self.target - measured[self.metric]) / self.target
        moved = self.tau * math.exp(self.sign * self.rate * max(-1.0, min(1.0, error)))
        self.tau = min(self.maximum, max(self.minimum, moved))

    def state_dict(self) -> dict[str, float]:
        """What a checkpoint keeps of the controller."""
        return {"tau": self.tau}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what :meth:`state_dict` gave."""
        self.tau = float(state["tau"])


def _check(start: float, end: float, anneal_steps: int) -> None:
    if start <= 0 or end <= 0:
        raise ValueError(f"temperatures must be positive, got start={start} and end={end}")
    if anneal_steps < 1:
        raise ValueError(f"anneal_steps must be at least 1, got {anneal_steps}")
