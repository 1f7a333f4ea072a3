"""A method's curve of a quantity against KL, through all its runs and through the initial policy."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.equal_kl import method_weight_seed
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.significance import Interval, few_interval

# What is compared at equal KL: of the test's results, how it is transformed, title, format.
QUANTITIES = (
    ("reward_mean", "logit", "Reward", ".3f"), ("judge_mean", "logit", "Judge", ".3f"), ("distinct_2", "none", "Distinct-2", ".3f"),
    ("perplexity", "log", "Perplexity, as a factor", ".2f"),
)  # fmt: skip
TRANSFORMS: dict[str, Callable[[Any], Any]] = {"logit": lambda x: np.log(x / (1 - x)), "none": lambda x: x, "log": np.log}
INTERVAL_SEEDS = 3  # with two the jackknife has two values, whose agreement is an accident of which seeds stand together
MANY = 3  # weights of a method from which on its curve has all of a form's terms


class Form(NamedTuple):
    """How a transformed quantity depends on the KL K.

    Attributes:
        title: for readers.
        terms: whose sum, each with a factor of its own, it is; the first two alone for a method with fewer than :data:`MANY` weights.
        pinned: beyond its value at the initial policy, where K = 0.
    """

    title: str
    terms: tuple[Callable[[np.ndarray], np.ndarray], ...]
    pinned: bool

    def design(self, kls: np.ndarray, weights: int) -> np.ndarray:
        """[N, terms] at KLs [N], for a method with so many weights."""
        return np.stack([term(kls) for term in (self.terms if weights >= MANY else self.terms[:2])], axis=1)


def _root(power: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda kls: kls ** (power / 2)


# The first is the one that is used: a polynomial in the root of the KL, as Gao et al. (2210.10760) have for rewards, here for logits.
FORMS = {
    "pinned": Form("cubic in root KL through the initial policy", (_root(1), _root(2), _root(3)), True),
    "free": Form("quadratic in root KL", (_root(0), _root(1), _root(2)), False),
    "log_square": Form("quadratic in ln KL", (_root(0), np.log, lambda kls: np.log(kls) ** 2), False),
    "log": Form("line in ln KL", (_root(0), np.log), False),
}
USED = "pinned"


class Run(NamedTuple):
    """Where one run ended, or was after a step: its weight of the KL, its KL in nats per token, and quantities by name."""

    beta: str
    kl: float
    values: Mapping[str, float]


Runs = Mapping[int, Sequence[Run]]  # of one method, by seed


class Curves(NamedTuple):
    """The runs of methods under the same conditions.

    Attributes:
        start: values of the initial policy, by quantity.
        methods: runs of each.
    """

    start: Mapping[str, float]
    methods: Mapping[str, Runs]


def curves(records: Sequence[Record], step: int | None = None) -> Curves:
    """Where the runs of each method and seed ended (test), or were after a step (validation); the smallest KL first."""
    found: dict[str, dict[int, list[Run]]] = defaultdict(lambda: defaultdict(list))
    keys = [key for key, _, _, _ in (QUANTITIES if step is None else QUANTITIES[:1])]
    starts: list[list[float]] = []
    for record in records:
        method, beta, seed = method_weight_seed(record)
        if step is None:
            first, rows = record.results["initial"], [record.results["test"]]
        else:
            first, *later = record.results["validation"]
            rows = [row for row in later if row["step"] == step]
        if rows:
            starts.append([float(first[key]) for key in keys])
        for row in rows:
            found[method][seed].append(Run(beta, float(row["kl_mean"]), {key: float(row[key]) for key in keys}))
    start = dict(zip(keys, np.mean(starts, axis=0).tolist(), strict=True)) if starts else {}
    return Curves(start, {m: {seed: sorted(runs, key=lambda run: run.kl) for seed, runs in seeds.items()} for m, seeds in found.items()})


class Fit(NamedTuple):
    """A method's curve of one quantity.

    Attributes:
        form, weights, start, transform: what it was made with.
        factors: [terms].
    """

    form: Form
    weights: int
    start: float
    transform: str
    factors: np.ndarray

    def transformed(self, kls: np.ndarray) -> np.ndarray:
        """[N] at KLs [N]."""
        return self.form.design(kls, self.weights) @ self.factors + self.start

    def heights(self, kls: np.ndarray) -> np.ndarray:
        """[N] at KLs [N]; of logits as probabilities, other transformed quantities as they are."""
        value = self.transformed(kls)
        return 1 / (1 + np.exp(-value)) if self.transform == "logit" else value


class Fitter(NamedTuple):
    """How curves of one quantity are fitted: the quantity, its transform, its value at the initial policy, and the form."""

    key: str
    transform: str
    start: float
    form: Form

    def fit(self, runs: Runs, weights: int | None = None) -> Fit:
        """Least squares through all runs of a method, of which ``weights`` may be said where some seeds are left out."""
        weights = weights_of(runs) if weights is None else weights
        kls, values = self.points(runs)
        start = float(TRANSFORMS[self.transform](self.start)) if self.form.pinned else 0.0
        factors = np.linalg.lstsq(self.form.design(kls, weights), values - start, rcond=None)[0]
        return Fit(self.form, weights, start, self.transform, factors)

    def points(self, runs: Runs) -> tuple[np.ndarray, np.ndarray]:
        """KLs and transformed values of all runs, both [N]."""
        pairs = [(run.kl, run.values[self.key]) for own in runs.values() for run in own]
        kls, values = (np.asarray(column) for column in zip(*pairs, strict=True))
        return kls, TRANSFORMS[self.transform](values)

    def left_out(self, runs: Runs) -> np.ndarray:
        """[N] errors of the transformed quantity of each run by the curve through all others."""
        kls, values = self.points(runs)
        fit = self.fit(runs)
        design = fit.form.design(kls, fit.weights)
        hat = design @ np.linalg.pinv(design)
        return (values - fit.transformed(kls)) / (1 - np.diag(hat))


def fitter(found: Curves, key: str, form: str = USED) -> Fitter:
    """For a quantity of these curves."""
    transform = next(transform for own, transform, _, _ in QUANTITIES if own == key)
    return Fitter(key, transform, found.start[key], FORMS[form])


def weights_of(runs: Runs) -> int:
    """How many weights of the KL a method has."""
    return len({run.beta for own in runs.values() for run in own})


def without(runs: Runs, seed: int | None) -> Runs:
    """Runs of all other seeds."""
    return {own: rows for own, rows in runs.items() if own != seed}


def jackknife(whole: float, without: Sequence[float]) -> Interval:
    """Student's 95% interval around an estimate, from those without each seed in turn."""
    count = len(without)
    found = few_interval([count * whole - (count - 1) * one for one in without])
    half = (found.high - found.low) / 2
    return Interval(whole, whole - half, whole + half)


def band(found: Curves, method: str, kls: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A method's reward at KLs by its curve, and the ends of its interval; of fewer than three seeds all three are the curve."""
    runs, fits = found.methods[method], fitter(found, "reward_mean")
    weights = weights_of(runs)
    whole = fits.fit(runs).transformed(kls)
    if len(runs) < INTERVAL_SEEDS:
        sides = [Interval(height, height, height) for height in whole]
    else:
        others = [fits.fit(without(runs, seed), weights).transformed(kls) for seed in runs]
        sides = [jackknife(middle, column) for middle, *column in zip(whole, *others, strict=True)]
    low, middle, high = (1 / (1 + np.exp(-np.asarray([getattr(side, name) for side in sides]))) for name in ("low", "mean", "high"))
    return low, middle, high
