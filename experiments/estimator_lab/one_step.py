"""One choice between two categories, logits 0: every mean and variance is a one-dimensional integral.

The difference of two Gumbel draws is logistic, so the first weight of the relaxed sample is y = sigmoid(L / tau), L ~ Logistic(0, 1).
Gradients are with respect to both logits; the variance is the trace of their covariance.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.special import expit


class Moments(NamedTuple):
    """Of an estimator: its mean gradient with respect to the first logit (the second's is minus that), and its variance (trace)."""

    mean: float
    variance: float


class Reward(NamedTuple):
    """A reward of y, the weight of the first category, on the segment between the two hard choices; its derivative."""

    name: str
    value: Callable[[float], float]
    slope: Callable[[float], float]


LINEAR = Reward("linear", lambda y: y, lambda y: 1.0)
# Equal to the linear reward at both ends; in between its slope points the other way.
MISLEADING = Reward("misleading", lambda y: y + 3 * y * (1 - y) * (2 * y - 1), lambda y: 1 + 3 * (-6 * y * y + 6 * y - 1))
STEEP = Reward("steep", lambda y: float(expit(20 * (y - 0.5))), lambda y: float(20 * expit(20 * (y - 0.5)) * expit(-20 * (y - 0.5))))
REWARDS = (LINEAR, STEEP, MISLEADING)


def truth(reward: Reward) -> float:
    """d E[f(D)] / d l_1 at equal logits: p (1 - p) (f(1) - f(0))."""
    return 0.25 * (reward.value(1.0) - reward.value(0.0))


def policy_gradient(reward: Reward) -> Moments:
    """f(D) grad log p(D), without a baseline: a sum of two terms."""
    grads = np.array([0.5 * reward.value(1.0), -0.5 * reward.value(0.0)])  # of the first logit, for D = 1 and D = 2
    mean = float(grads.mean())
    return Moments(mean, 2 * float((grads**2).mean() - mean**2))


def _expectation(g: Callable[[float], float]) -> float:
    """E g(L) of a standard logistic L, by quadrature."""
    density = lambda x: float(expit(x) * expit(-x))  # noqa: E731
    parts = [quad(lambda x: g(x) * density(x), a, b, limit=400, epsabs=1e-13)[0] for a, b in ((-40, -1), (-1, 0), (0, 1), (1, 40))]
    return float(sum(parts))


def relaxed(reward: Reward, tau: float, *, straight_through: bool) -> Moments:
    """Gumbel-softmax (the slope at the soft sample), or straight-through (the slope at the hard one, the soft sample's Jacobian)."""

    def gradient(noise: float) -> float:
        y = float(expit(noise / tau))
        at = float(noise > 0) if straight_through else y
        return reward.slope(at) * y * (1 - y) / tau

    mean = _expectation(gradient)
    return Moments(mean, 2 * (_expectation(lambda x: gradient(x) ** 2) - mean**2))


def crossover(reward: Reward, *, straight_through: bool = False) -> float | None:
    """The temperature below which the relaxed estimator has the larger variance; None where there is none in [0.05, 5]."""
    limit = policy_gradient(reward).variance
    gap = lambda tau: relaxed(reward, tau, straight_through=straight_through).variance - limit  # noqa: E731
    return float(brentq(gap, 0.05, 5.0, xtol=1e-10)) if gap(0.05) > 0 > gap(5.0) else None
