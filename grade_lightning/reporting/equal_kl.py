"""Methods at equal KL: a curve through all runs of each, at whatever weights of the KL they were made, and what one has beyond another."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from grade_lightning.reporting.significance import Interval, few_interval

TRANSFORMS: dict[str, Callable[[Any], Any]] = {"logit": lambda x: np.log(x / (1 - x)), "none": lambda x: x, "log": np.log}
INTERVAL_SEEDS = 3  # with two the jackknife has two values, whose agreement is an accident of which seeds stand together
MANY = 3  # weights of a method that a curve of three terms needs
LEAST = 4  # runs of a method for a curve of its own
GRID = 9  # KLs, evenly in their logarithm, over which differences are averaged


class Quantity(NamedTuple):
    """What is compared: its name in results, its title, how numbers are shown, and the transform under which it is fitted.

    Perplexities are fitted and compared as logarithms; a quantity between 0 and 1 is fitted as its logit and compared as it is.
    """

    key: str
    title: str
    spec: str
    transform: str


QUANTITIES = (
    Quantity("reward_mean", "Reward", ".3f", "logit"), Quantity("judge_mean", "Judge", ".3f", "logit"),
    Quantity("distinct_2", "Distinct-2", ".3f", "none"), Quantity("perplexity", "Perplexity, as a factor", ".2f", "log"),
)  # fmt: skip


class Form(NamedTuple):
    """How a transformed quantity depends on the KL K.

    Attributes:
        title: for readers.
        terms: whose sum, each with a factor of its own, it is.
        pinned: beyond its value at the initial policy, where K = 0.
        few: the form for a method with fewer than :data:`MANY` weights; None = the same.
    """

    title: str
    terms: tuple[Callable[[np.ndarray], np.ndarray], ...]
    pinned: bool = False
    few: Form | None = None

    def design(self, kls: np.ndarray) -> np.ndarray:
        """[N, terms] at KLs [N]."""
        return np.stack([term(kls) for term in self.terms], axis=1)

    def for_weights(self, weights: int) -> Form:
        """The form for a method with so many weights."""
        return self if weights >= MANY or self.few is None else self.few


def root(power: int) -> Callable[[np.ndarray], np.ndarray]:
    """KLs [N] -> their root to a power [N]."""
    return lambda kls: kls ** (power / 2)


# Quadratic in the root of the KL, as Gao et al. (2210.10760) have for rewards, here of transformed quantities.  Two weights do not tell a
# curvature: there the initial policy stands for the third.  A line in ln K is bent by runs near the initial policy, and what it says of two
# methods depends on which weights they were run at (experiments/frontier, forms.md).
STARTED = Form("quadratic in root KL through the initial policy", (root(1), root(2)), pinned=True)
USED = Form("quadratic in root KL", (root(0), root(1), root(2)), few=STARTED)


class Point(NamedTuple):
    """Where one run came to: its weight of the KL, its KL in nats per token, and quantities by name."""

    beta: str
    kl: float
    values: Mapping[str, float]


Points = Mapping[int, Sequence[Point]]  # of one method, by seed


class Curves(NamedTuple):
    """Methods under the same conditions.

    Attributes:
        start: values of the initial policy, by quantity.
        methods: points of each.
    """

    start: Mapping[str, float]
    methods: Mapping[str, Points]


class Fit(NamedTuple):
    """A method's curve of one quantity: what it was made with, and the factors [terms] of the form."""

    form: Form
    start: float
    transform: str
    factors: np.ndarray

    def transformed(self, kls: np.ndarray) -> np.ndarray:
        """[N] at KLs [N]."""
        return self.form.design(kls) @ self.factors + self.start

    def heights(self, kls: np.ndarray) -> np.ndarray:
        """[N] at KLs [N]: of logits the probabilities, other transformed quantities as they are."""
        value = self.transformed(kls)
        return 1 / (1 + np.exp(-value)) if self.transform == "logit" else value


class Fitter(NamedTuple):
    """How curves of one quantity are fitted: its name, its transform, its value at the initial policy, and the form."""

    key: str
    transform: str
    start: float
    form: Form

    def fit(self, points: Points, weights: int | None = None) -> Fit:
        """Least squares through all runs of a method, of which ``weights`` may be said where some seeds are left out.

        Errors of logits count as the errors of probabilities that they are: else runs near 1, whose logits are the noisiest, steer the
        whole curve.  Their slopes p (1 - p) are those of a first fit without.
        """
        form = self.form.for_weights(weights_of(points) if weights is None else weights)
        kls, values = self.columns(points)
        start = float(TRANSFORMS[self.transform](self.start)) if form.pinned else 0.0
        slopes = np.ones_like(kls)
        for _ in range(2 if self.transform == "logit" else 1):
            factors = np.linalg.lstsq(form.design(kls) * slopes[:, None], (values - start) * slopes, rcond=None)[0]
            fit = Fit(form, start, self.transform, factors)
            heights = fit.heights(kls)
            slopes = heights * (1 - heights)
        return fit

    def columns(self, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """KLs and transformed values of all runs, both [N]."""
        pairs = [(point.kl, point.values[self.key]) for own in points.values() for point in own]
        kls, values = (np.asarray(column, dtype=float) for column in zip(*pairs, strict=True))
        return kls, TRANSFORMS[self.transform](values)


def fitter(found: Curves, quantity: Quantity, form: Form = USED) -> Fitter:
    """For these curves; a quantity that is not always strictly between 0 and 1 has no logit and is fitted as it is."""
    transform = quantity.transform
    if transform == "logit":
        values = [point.values[quantity.key] for points in found.methods.values() for own in points.values() for point in own]
        transform = "logit" if all(0 < value < 1 for value in (found.start[quantity.key], *values)) else "none"
    return Fitter(quantity.key, transform, found.start[quantity.key], form)


def weights_of(points: Points) -> int:
    """How many weights of the KL a method has."""
    return len({point.beta for own in points.values() for point in own})


def enough(points: Points) -> bool:
    """Whether there are runs for a curve: :data:`LEAST`, and several weights of at least two seeds (or the only one) for its slope."""
    sloped = sum(len({point.beta for point in own}) > 1 for own in points.values())
    return sum(map(len, points.values())) >= LEAST and sloped >= min(2, len(points))


def without(points: Points, seed: int | None) -> Points:
    """Points of all other seeds."""
    return {own: rows for own, rows in points.items() if own != seed}


def jackknife(whole: float, parts: Sequence[float]) -> Interval:
    """Student's 95% interval around an estimate, from those without each seed in turn."""
    count = len(parts)
    found = few_interval([count * whole - (count - 1) * one for one in parts])
    half = (found.high - found.low) / 2
    return Interval(whole, whole - half, whole + half)


class Difference(NamedTuple):
    """Of two methods at equal KL.

    Attributes:
        seeds: that both have.
        low, high: KLs that runs of both enclose.
        values: of each quantity the mean difference, and its interval where there are three seeds; empty where nothing can be compared.
        why: nothing can be compared, else empty.
    """

    seeds: int
    low: float
    high: float
    values: dict[str, tuple[float, Interval | None]]
    why: str = ""

    @property
    def where(self) -> str:
        """The KLs, or why there are none."""
        return self.why or f"{nats(self.low)} to {nats(self.high)}"

    def row(self, keys: Iterable[str]) -> dict[str, Any]:
        """Of a table: the KLs, the seeds, and what is said of each of the quantities of these names, blank where that is nothing."""
        compared = {quantity.key: said(*self.values[quantity.key], quantity) for quantity in QUANTITIES if quantity.key in self.values}
        return {"kls": self.where, "seeds": self.seeds, **dict.fromkeys(keys, ""), **compared}


def common(found: Curves, method: str, reference: str) -> tuple[list[Points], Difference]:
    """The points of the seeds that both have, and what can be said before any curve.

    A method whose runs of these seeds are not :func:`enough` has no curve.
    """
    seeds = sorted(found.methods.get(method, {}).keys() & found.methods.get(reference, {}).keys())
    pair: list[Points] = [{seed: found.methods[name][seed] for seed in seeds} for name in (method, reference)] if seeds else []
    if not pair or not all(map(enough, pair)):
        return pair, Difference(0, math.nan, math.nan, {}, "too few runs")
    ends = [[point.kl for points in own.values() for point in points] for own in pair]
    low, high = max(map(min, ends)), min(map(max, ends))
    return pair, Difference(len(seeds), low, high, {}, "" if low < high else f"none: {nats(low)} is above {nats(high)}")


def difference(found: Curves, method: str, reference: str, *, form: Form = USED) -> Difference:
    """What a method has beyond another: curves through all runs of each, their mean difference over the KLs that both enclose.

    Student's 95% intervals of the jackknife over seeds: curves are fitted anew without each seed in turn.
    """
    pair, one = common(found, method, reference)
    if one.why:
        return one
    kls = np.geomspace(one.low, one.high, GRID)
    for quantity in QUANTITIES:
        if quantity.key in found.start:
            one.values[quantity.key] = averaged(pair, fitter(found, quantity, form), kls)
    return one


def difference_between(found: Curves, method: str, reference: str, low: float, high: float) -> Difference:
    """The reward's over the KLs of a band: as much of it as both methods enclose."""
    pair, one = common(found, method, reference)
    if one.why:
        return one
    low, high = max(low, one.low), min(high, one.high)
    if low >= high:
        return Difference(one.seeds, low, high, {}, "not in both")
    value = averaged(pair, fitter(found, QUANTITIES[0]), np.geomspace(low, high, GRID))
    return Difference(one.seeds, low, high, {QUANTITIES[0].key: value})


def averaged(pair: Sequence[Points], fits: Fitter, kls: np.ndarray) -> tuple[float, Interval | None]:
    """Mean difference of two curves at KLs, and its interval over seeds."""
    weights = [weights_of(own) for own in pair]

    def mean(left: int | None) -> float:
        first, second = (fits.fit(without(own, left), n).heights(kls) for own, n in zip(pair, weights, strict=True))
        return float(np.mean(first - second))

    whole, seeds = mean(None), list(pair[0])
    return whole, jackknife(whole, [mean(seed) for seed in seeds]) if len(seeds) >= INTERVAL_SEEDS else None


def band(found: Curves, method: str, kls: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A method's reward at KLs by its curve, and the ends of its interval; of fewer than three seeds all three are the curve."""
    points, fits = found.methods[method], fitter(found, QUANTITIES[0])
    weights = weights_of(points)
    whole = fits.fit(points, weights)
    sides = [Interval(height, height, height) for height in whole.transformed(kls)]
    if len(points) >= INTERVAL_SEEDS:
        others = [fits.fit(without(points, seed), weights).transformed(kls) for seed in points]
        sides = [jackknife(middle.mean, column) for middle, *column in zip(sides, *others, strict=True)]
    ends = (np.asarray([getattr(side, name) for side in sides]) for name in ("low", "mean", "high"))
    low, middle, high = (1 / (1 + np.exp(-end)) if fits.transform == "logit" else end for end in ends)
    return low, middle, high


def nats(kl: float) -> str:
    """A KL for readers."""
    return f"{kl:.2f}" if kl >= 0.01 else f"{kl:.1g}"


def said(value: float, interval: Interval | None, quantity: Quantity) -> str:
    """A difference with its interval, as a factor where logarithms were compared."""
    factor = quantity.transform == "log"
    ends = [value] if interval is None else [value, interval.low, interval.high]
    mean, *rest = [f"{math.exp(end):{quantity.spec}}" if factor else f"{end:+{quantity.spec}}" for end in ends]
    return mean + (f" [{rest[0]}, {rest[1]}]" if rest else "")
