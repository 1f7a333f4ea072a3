"""Methods against one of them: at equal KL, and in the steps they need to a reward at a KL."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from experiments.curves import FORMS, curves, left_out
from experiments.weights import ends, method_weight_seed
from grade_lightning.records.study_table import Record
from grade_lightning.reporting.equal_kl import (
    INTERVAL_SEEDS,
    QUANTITIES,
    USED,
    Curves,
    Difference,
    common,
    difference,
    difference_between,
    fitter,
    said,
)
from grade_lightning.reporting.table import Table

REWARD = QUANTITIES[0]
BANDS = ((0.1, 0.2), (0.2, 0.35), (0.35, 0.8), (0.8, 1.25), (1.25, 1.6))  # nats per token, in which differences are shown one by one
TARGETS = ((0.8, 0.3), (0.85, 0.4), (0.9, 0.5), (0.9, 0.7), (0.95, 1.0), (0.97, 1.25))  # validation reward, at most this KL


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
        rows.append({"method": (names or {}).get(method, method), **one.row(quantity.key for quantity in QUANTITIES)})
    columns = [("method", "Method", ""), ("kls", "KLs, nats/token", ""), ("seeds", "Seeds", "d")]
    columns += [(quantity.key, quantity.title, "") for quantity in QUANTITIES]
    note = (
        f"Beyond {(names or {}).get(reference, reference)} at equal KL: curves through all runs of a method, {USED.title} (through the "
        "initial policy where it has two weights; logits of what lies between 0 and 1, logarithm of perplexity), mean difference over "
        f"the KLs that both enclose; Student's 95% interval of the jackknife over seeds where there are {INTERVAL_SEEDS}."
    )
    return Table("Against", columns, rows, [note])


def comparison(
    records: Sequence[Record], steps: Sequence[int], references: Sequence[str], pairs: Sequence[tuple[str, str]], names: Mapping[str, str]
) -> list[Table]:  # fmt: skip
    """How runs ended, what methods have beyond each of the references on the test and by steps, and pairs of them in bands of the KL."""
    tables = [ends(records)]
    for reference in references:
        tables += [against(records, reference, names), by_steps(records, steps, reference, names)]
    return [*tables, by_band(records, pairs, names)]


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
            row[str(step)] = _reward_and_kls(compared)
            if compared.values:
                row["seeds"] = compared.seeds
        rows.append(row)
    columns = [("method", "Method", ""), ("seeds", "Seeds", "d"), *((str(step), f"after {step} steps", "") for step in steps)]
    note = "The same on 256 validation prompts while training, of runs that were validated after all of these steps."
    return Table("By steps", columns, rows, [note])


def _reward_and_kls(one: Difference) -> str:
    """A cell: what a method has beyond another and where; blank where nothing can be compared."""
    return f"{said(*one.values[REWARD.key], REWARD)} at {one.low:.1f} to {one.high:.1f}" if one.values else ""


def by_band(records: Sequence[Record], pairs: Sequence[tuple[str, str]], names: Mapping[str, str] | None = None) -> Table:
    """Test rewards of methods beyond others in bands of the KL: an average over all KLs hides where two curves cross.

    Args:
        records: runs named after method, weight and seed.
        pairs: of a method and a reference; those that cannot be compared are left out.
        names: of methods, for readers.
    """
    found, rows = curves(records), []
    for method, reference in pairs:
        row = {"pair": f"{(names or {}).get(method, method)} beyond {(names or {}).get(reference, reference)}"}
        for low, high in BANDS:
            one = difference_between(found, method, reference, low, high)
            whole = (one.low, one.high) == (low, high)
            at = "" if whole else f" ({one.low:.2f} to {one.high:.2f})"
            row[f"{low:g}"] = said(*one.values[REWARD.key], REWARD) + at if one.values else ""
        rows += [row] if any(list(row.values())[1:]) else []
    columns = [("pair", "", ""), *((f"{low:g}", f"{low:g} to {high:g} nats", "") for low, high in BANDS)]
    return Table("By band", columns, rows, ["The same in bands of the KL; in brackets what of a band both enclose."])


def by_cost(
    records: Sequence[Record], method: str, references: Sequence[str], pairs: Sequence[tuple[int, int]],
    names: Mapping[str, str] | None = None,
) -> Table:  # fmt: skip
    """Validation rewards of a method beyond those of others that have made more steps.

    Args:
        records: runs named after method, weight and seed.
        method: what is compared.
        references: with what.
        pairs: of its steps and theirs.
        names: of methods, for readers.
    """
    found = {step: curves(records, step) for step in sorted({step for pair in pairs for step in pair})}
    rows = []
    for own, theirs in pairs:
        row = {"steps": f"{own}, {theirs}"}
        for reference in references:
            both = Curves(found[own].start, {m: found[s].methods.get(m, {}) for m, s in ((method, own), (reference, theirs))})
            row[reference] = _reward_and_kls(difference(both, method, reference))
        rows += [row] if any(row[reference] for reference in references) else []
    title = (names or {}).get(method, method)
    columns = [("steps", "Steps, its and theirs", ""), *((r, f"{title} beyond {(names or {}).get(r, r)}", "") for r in references)]
    return Table("By cost", columns, rows, ["The same on validation prompts, where the others have made more steps."])


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
    for form in FORMS:
        errors = {m: left_out(fitter(found, REWARD, form), found.methods[m]) for m in methods}
        row = {f"{a} {b}": said(*difference(found, a, b, form=form).values[REWARD.key], REWARD) for a, b in compared}
        shown = {m: float(np.sqrt(np.mean(error**2))) for m, error in errors.items()}
        rows.append({"form": form.title, **shown, **row})
    title = {m: (names or {}).get(m, m) for m in methods}
    columns = [("form", "Form", ""), *((m, f"Error, {title[m]}", ".4f") for m in methods)]
    columns += [(f"{a} {b}", f"{title[a]} beyond {title[b]}", "") for a, b in compared]
    note = "Errors of a run's test reward by the curve through the runs of all other seeds of its method, root mean square."
    return Table("Forms", columns, rows, [note])


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
