"""Methods against one of them: at equal KL, and in the steps they need to a reward at a KL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from experiments.equal_kl import method_weight_seed
from experiments.frontier.curves import (
    FORMS,
    INTERVAL_SEEDS,
    QUANTITIES,
    USED,
    Curves,
    Fitter,
    Runs,
    curves,
    fitter,
    jackknife,
    weights_of,
    without,
)
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.significance import Interval
from grade_lightning.reporting.table import Table

LEAST = 4  # runs of a method for a curve of its own
GRID = 9  # KLs, evenly in their logarithm, over which differences are averaged
KLS = (0.1, 0.12, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0, 1.2, 1.5)  # nats per token, where differences are shown one by one
TARGETS = ((0.8, 0.3), (0.85, 0.4), (0.9, 0.5), (0.9, 0.7), (0.95, 1.0), (0.97, 1.25))  # validation reward, at most this KL


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


def common(found: Curves, method: str, reference: str) -> tuple[list[Runs], Difference]:
    """The runs of the seeds that both have, and what can be said before any curve.

    A method with fewer than :data:`LEAST` runs of these seeds, or several weights of one seed alone, has no curve.
    """
    seeds = sorted(found.methods.get(method, {}).keys() & found.methods.get(reference, {}).keys())
    pair: list[Runs] = [{seed: found.methods[name][seed] for seed in seeds} for name in (method, reference)] if seeds else []
    if not pair or any(sum(map(len, own.values())) < LEAST or not _sloped(own) for own in pair):
        return pair, Difference(0, math.nan, math.nan, {}, "too few runs")
    ends = [[run.kl for runs in own.values() for run in runs] for own in pair]
    low, high = max(map(min, ends)), min(map(max, ends))
    return pair, Difference(len(seeds), low, high, {}, "" if low < high else f"none: {low:.2f} is above {high:.2f}")


def difference(found: Curves, method: str, reference: str, *, form: str = USED) -> Difference:
    """What a method has beyond another: curves through all runs of each, their mean difference over the KLs that both enclose.

    Student's 95% intervals of the jackknife over seeds: curves are fitted anew without each seed in turn.
    """
    pair, one = common(found, method, reference)
    if one.why:
        return one
    kls = np.geomspace(one.low, one.high, GRID)
    for key in found.start:
        one.values[key] = _averaged(pair, fitter(found, key, form), kls)
    return one


def differences(found: Curves, method: str, reference: str, kls: Sequence[float]) -> dict[float, tuple[float, Interval | None]]:
    """The reward's at single KLs, those that both methods enclose."""
    pair, one = common(found, method, reference)
    inside = [] if one.why else [kl for kl in kls if one.low <= kl <= one.high]
    return {kl: _averaged(pair, fitter(found, "reward_mean"), np.asarray([kl])) for kl in inside}


def _averaged(pair: Sequence[Runs], fits: Fitter, kls: np.ndarray) -> tuple[float, Interval | None]:
    """Mean difference of two curves at KLs, and its interval over seeds."""
    weights = [weights_of(own) for own in pair]

    def mean(left: int | None) -> float:
        first, second = (fits.fit(without(own, left), n).heights(kls) for own, n in zip(pair, weights, strict=True))
        return float(np.mean(first - second))

    whole, seeds = mean(None), list(pair[0])
    return whole, jackknife(whole, [mean(seed) for seed in seeds]) if len(seeds) >= INTERVAL_SEEDS else None


def _sloped(seeds: Runs) -> bool:
    """Whether at least two seeds (or the only one) have several weights: seeds of one weight say nothing of a slope."""
    return sum(len(runs) > 1 for runs in seeds.values()) >= min(2, len(seeds))


def against(records: Sequence[Record], reference: str = "rloo", names: Mapping[str, str] | None = None) -> Table:
    """What each method has beyond the reference at equal KL.

    Args:
        records: runs named after method, weight and seed.
        reference: the method it is compared with.
        names: of methods, for readers.
    """
    found, rows = curves(records), []
    for method in sorted(found.methods.keys() - {reference}):
        one = difference(found, method, reference)
        row: dict[str, Any] = {key: "" for key, _, _, _ in QUANTITIES}
        row |= {"method": (names or {}).get(method, method), "kls": one.why or f"{one.low:.2f} to {one.high:.2f}", "seeds": one.seeds}
        if one.values:
            row |= {key: _said(*one.values[key], transform == "log", form) for key, transform, _, form in QUANTITIES}
        rows.append(row)
    columns = [("method", "Method", ""), ("kls", "KLs, nats/token", ""), ("seeds", "Seeds", "d")]
    columns += [(key, title, "") for key, _, title, _ in QUANTITIES]
    note = (
        f"Beyond {(names or {}).get(reference, reference)} at equal KL: curves through all runs of a method, {FORMS[USED].title} (a "
        "quadratic where it has two weights; logits of reward and judge, distinct-2, logarithm of perplexity), mean difference over the "
        f"KLs that both enclose; Student's 95% interval of the jackknife over seeds where there are {INTERVAL_SEEDS}."
    )
    return Table("Against", columns, rows, [note])


def by_steps(records: Sequence[Record], steps: Sequence[int], reference: str = "rloo", names: Mapping[str, str] | None = None) -> Table:
    """Validation rewards beyond the reference's at equal KL, after the same number of steps.

    Args:
        records: runs; those that were not validated after all of these steps are left out.
        steps: from the first policy step.
        reference: the method they are compared with.
        names: of methods, for readers.
    """
    whole = [record for record in records if set(steps) <= {row["step"] for row in record.results["validation"]}]
    found = {step: curves(whole, step) for step in steps}
    rows = []
    for method in sorted(next(iter(found.values())).methods.keys() - {reference}):
        row: dict[str, Any] = {"method": (names or {}).get(method, method), "seeds": 0}
        for step, one in found.items():
            compared = difference(one, method, reference)
            row[str(step)] = ""
            if compared.values:
                row["seeds"] = compared.seeds
                row[str(step)] = f"{_said(*compared.values['reward_mean'], False, '.3f')} at {compared.low:.1f} to {compared.high:.1f}"
        rows.append(row)
    columns = [("method", "Method", ""), ("seeds", "Seeds", "d"), *((str(step), f"after {step} steps", "") for step in steps)]
    note = "The same on 256 validation prompts while training, of runs that were validated after all of these steps."
    return Table("By steps", columns, rows, [note])


def by_kl(records: Sequence[Record], method: str, references: Sequence[str], names: Mapping[str, str] | None = None) -> Table:
    """Test rewards of one method beyond others at single KLs.

    Args:
        records: runs named after method, weight and seed.
        method: what is compared.
        references: with what.
        names: of methods, for readers.
    """
    found, rows = curves(records), []
    for reference in references:
        at = differences(found, method, reference, KLS)
        row = {f"{kl:g}": _said(*one, False, ".3f") for kl, one in at.items()}
        rows.append({"reference": (names or {}).get(reference, reference), **{f"{kl:g}": "" for kl in KLS}, **row})
    columns = [("reference", f"{(names or {}).get(method, method)}, beyond", ""), *((f"{kl:g}", f"at {kl:g}", "") for kl in KLS)]
    return Table("By KL", columns, rows, ["Test reward at single KLs, nats per token, by the same curves."])


def forms(records: Sequence[Record], pairs: Sequence[tuple[str, str]], names: Mapping[str, str] | None = None) -> Table:
    """How much the form of the curves matters: their errors at runs left out, and differences of test rewards by each form.

    Args:
        records: runs named after method, weight and seed.
        pairs: of a method and a reference; those that cannot be compared are left out.
        names: of methods, for readers.
    """
    found = curves(records)
    compared = [(a, b) for a, b in pairs if not common(found, a, b)[1].why]
    methods = list(dict.fromkeys(m for pair in compared for m in pair))
    rows = []
    for form, chosen in FORMS.items():
        errors = {m: fitter(found, "reward_mean", form).left_out(found.methods[m]) for m in methods}
        row = {f"{a} {b}": _said(*difference(found, a, b, form=form).values["reward_mean"], False, ".3f") for a, b in compared}
        shown = {m: float(np.sqrt(np.mean(error**2))) for m, error in errors.items()}
        rows.append({"form": chosen.title, **shown, **row})
    said = {m: (names or {}).get(m, m) for m in methods}
    columns = [("form", "Form", ""), *((m, f"Error, {said[m]}", ".2f") for m in methods)]
    columns += [(f"{a} {b}", f"{said[a]} beyond {said[b]}", "") for a, b in compared]
    note = "Errors of the logit of a run's test reward by the curve through all other runs of its method, root mean square."
    return Table("Forms", columns, rows, [note])


def _said(value: float, interval: Interval | None, factor: bool, form: str) -> str:
    """A difference with its interval, as a factor where logarithms were compared."""
    ends = [value] if interval is None else [value, interval.low, interval.high]
    mean, *rest = [f"{math.exp(end):{form}}" if factor else f"{end:+{form}}" for end in ends]
    return mean + (f" [{rest[0]}, {rest[1]}]" if rest else "")


def targets(records: Sequence[Record], methods: Sequence[str], names: Mapping[str, str]) -> Table:
    """Steps until the validation reward is at least so high at a KL of at most so much, in the weight of each method that is best for that.

    Best is the weight with the least median; a seed that never gets there counts as later than all others.

    Args:
        records: runs that were validated after the same steps.
        methods: in the order shown.
        names: of methods, for readers.
    """
    settings: dict[str, dict[str, list[list[dict[str, float]]]]] = defaultdict(lambda: defaultdict(list))
    for record in records:
        method, beta, _ = method_weight_seed(record)
        settings[method][beta].append(record.results["validation"])
    rows = []
    for reward, kl in TARGETS:
        for method in methods:
            tried = []
            for beta, runs in settings[method].items():
                reached = sorted(_first(rows, reward, kl) for rows in runs)
                tried.append((float(np.median(reached)), -sum(map(math.isfinite, reached)) / len(reached), beta, reached))
            row = {"target": f"{reward:g} at {kl:g}", "method": names.get(method, method), "tried": len(tried)}
            if tried:
                _, _, beta, reached = min(tried)
                row |= {"beta": beta, "steps": " ".join("never" if step == math.inf else f"{step:.0f}" for step in reached)}
            rows.append({"beta": "", "steps": "not run", **row})
    columns = [
        ("target", "Reward, at a KL of at most", ""), ("method", "Method", ""), ("tried", "Weights tried", "d"),
        ("beta", "Best weight", ""), ("steps", "Steps, by seed", ""),
    ]  # fmt: skip
    note = (
        "First validation (256 prompts) inside; the best weight is chosen by these very seeds, so that more weights tried is an advantage."
    )
    return Table("Targets", columns, rows, [note])


def _first(rows: Sequence[Mapping[str, float]], reward: float, kl: float) -> float:
    return next((float(row["step"]) for row in rows if row["reward_mean"] >= reward and row["kl_mean"] <= kl), math.inf)
