"""Temperature schedules tau(step) of the relaxation."""

from __future__ import annotations


def linear_temperature(step: int, *, start: float, end: float, anneal_steps: int) -> float:
    """Linear annealing (eq. 15): start at step 0, end from ``anneal_steps`` on.

        tau(t) = start - (t / anneal_steps) (start - end)

    Args:
        step: number of policy steps already made.
        start, end: temperatures, > 0.
        anneal_steps: length of the annealing in policy steps, >= 1.
    """
    _check(start, end, anneal_steps)
    return start - min(step / anneal_steps, 1.0) * (start - end)


def constant_temperature(step: int, *, value: float) -> float:
    """The same temperature at every step."""
    _check(value, value, 1)
    return value


def _check(start: float, end: float, anneal_steps: int) -> None:
    if start <= 0 or end <= 0:
        raise ValueError(f"temperatures must be positive, got start={start} and end={end}")
    if anneal_steps < 1:
        raise ValueError(f"anneal_steps must be at least 1, got {anneal_steps}")
