"""What a report says first: three sentences from the tests that its tables hold, and from the same test at equal KL."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from grade_lightning.reporting.equal_kl import LEAST
from grade_lightning.reporting.lines import Line, at, lines, reach
from grade_lightning.reporting.significance import Interval, holm, welch
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.variants import Variant, listed

LEVEL = 0.05
_MOST = 4  # methods in a sentence
_MANY = 10  # rows, of which the best is lucky too
_SAME = 0.05  # of the KL that one of two lines reaches: below, nothing was paid that could be equal


def answer(variants: list[Variant], tables: dict[str, Table], uncomparable: Sequence[str]) -> list[str]:
    """Three sentences: the last step, equal KL, and how sure that is.

    Args:
        tables: with ``table1`` and ``table2`` of the variants, and ``equal_kl`` where weights of the KL were swept.
        uncomparable: warnings about runs whose rewards are not one quantity; then nothing is ordered.
    """
    rows = [row for row in tables["table1"].rows if isinstance(row.get("test"), Interval) and row["method"] != "initial policy"]
    initial = next((row["test"].mean for row in tables["table1"].rows if row["method"] == "initial policy"), None)
    pairs = tables["table2"].rows
    if not rows:
        return [
            "No run was tested, so nothing can be said about rewards after training.",
            "Validation rewards are in the tables; they chose rates and steps, and are too high for it.",
            "No difference was tested.",
        ]
    best = max(rows, key=lambda row: row["test"].mean)
    if uncomparable:
        return [
            f"These runs are not of one experiment ({uncomparable[0].split(':')[0]}), so their rewards are not ordered here.",
            f"The highest number is that of {_with(best, initial)}, against whatever its own reward, data and protocol were.",
            "Name a part of the study (--part), or a folder of runs that differ in what is to be compared.",
        ]
    swept = tables.get("equal_kl")
    equal = None if swept is None else _swept(swept)
    return [_last(best, rows, pairs, initial), equal or _equal(best, variants, swept), _sure(rows, pairs)]


def _with(row: dict[str, Any], initial: float | None) -> str:
    """A row's test in words."""
    start = "" if initial is None or math.isnan(initial) else f", from {initial:.3f}"
    paid = "" if row.get("kl") is None or math.isnan(row["kl"]) else f" at {row['kl']:.2f} nats per token of KL"
    return f"{row['method']} ({row['test']} over {row['seeds']} seed{'' if row['seeds'] == 1 else 's'}{start}{paid})"


def _p(pair: dict[str, Any]) -> float | None:
    """The adjusted p of a pair: over seeds, else over prompts, else from spreads."""
    return next((pair[key] for key in ("seed_holm", "prompt_holm", "unpaired_p") if pair.get(key) is not None), None)


def _pvalue(p: float) -> str:
    return "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def _last(best: dict[str, Any], rows: list[dict[str, Any]], pairs: list[dict[str, Any]], initial: float | None) -> str:
    text = f"After the last step {_with(best, initial)} has the highest test reward"
    above, close = [], []
    for row in sorted(rows, key=lambda row: -row["test"].mean):
        pair = next((pair for pair in pairs if {pair["first"], pair["second"]} == {best["method"], row["method"]}), None)
        if pair is None or pair.get("difference") is None:
            continue
        p, difference = _p(pair), abs(pair["difference"])
        if p is not None and p < LEVEL:
            above.append(f"{row['method']} by {difference:.3f} ({_pvalue(p)})")
        else:
            close.append(f"{row['method']} ({difference:.3f} lower{'' if p is None else ', ' + _pvalue(p)})")
    if above:
        text += f"; it is above {_listed(above)}"
    if close:
        text += f"; it cannot be told from {_listed(close)}"
    return text + "."


def _listed(items: list[str]) -> str:
    if len(items) > _MOST:
        return listed(items, _MOST)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def _swept(table: Table) -> str | None:
    """What methods with several weights of the KL have beyond the reference; None where no two can be compared."""
    known = [f"{row['method']} {row['reward_mean']} from {row['kls']}" for row in table.rows if row["reward_mean"]]
    start = f"At equal KL, in nats per token and by curves through tests at several weights of it, beyond {table.rows[0]['reference']}: "
    return start + "; ".join(known) + "." if known else None


def _equal(best: dict[str, Any], variants: list[Variant], swept: Table | None) -> str:
    """The best row's method against the others at the highest KL that all seeds of both reach while training."""
    found = lines(variants)
    own = next((line for line in found if best["method"] in {variants[place].label for place in line.places}), None)
    if own is not None and own.weights:
        why = f"that needs two methods at several weights of the KL (a sweep over kl_coef), {LEAST} tested runs of each"
        if swept is not None:
            why = f"beside {swept.rows[0]['reference']} there is " + _listed([f"{row['method']} ({row['kls']})" for row in swept.rows])
        return f"At equal KL nothing can be compared: {why}."
    compared = [(line, kl) for line in found if own is not None and line is not own and (kl := _common(own, line)) is not None]
    if own is None or not compared:
        return (
            "At equal KL nothing can be compared: the runs kept no rewards at several KLs that two of them reach. Sweep over kl_coef, or "
            "validate more often (evaluation.validate_every)."
        )
    tests = []
    for line, kl in compared:
        rewards = [[at(points, kl) for points in side.seeds] for side in (own, line)]
        difference = sum(rewards[0]) / len(rewards[0]) - sum(rewards[1]) / len(rewards[1])
        tests.append((line.label, kl, difference, welch(*rewards)))
    adjusted = iter(holm([test.p for *_, test in tests if test is not None]))
    said = []
    for label, kl, difference, test in tests:
        p = None if test is None else next(adjusted)
        told = "with one seed in doubt" if p is None else _pvalue(p) if p < LEVEL else f"{_pvalue(p)}, not told apart"
        said.append(f"{abs(difference):.3f} {'above' if difference > 0 else 'below'} {label} at {kl:.2f} ({told})")
    source = "validation rewards between steps (Welch's test over seeds, Holm-adjusted)"
    return f"At equal KL, in nats per token and by {source}, {own.label} is {_listed(said)}."


def _common(first: Line, second: Line) -> float | None:
    """The highest KL that all seeds of both reach; None where they were measured differently, or one was hardly moved."""
    if not first.seeds or not second.seeds:  # those of weights have none: they are compared by their curves
        return None
    kl = min(reach(first.seeds), reach(second.seeds))
    starts = max(points[0][0] for points in (*first.seeds, *second.seeds))
    return kl if kl > max(starts, _SAME * max(reach(first.seeds), reach(second.seeds))) else None


def _sure(rows: list[dict[str, Any]], pairs: list[dict[str, Any]]) -> str:
    if len(rows) == 1:
        return f"There is one row, so there is no comparison; its lift over the initial policy, prompt by prompt, is {_lift(rows[0])}."
    known = [p for pair in pairs if (p := _p(pair)) is not None]
    told = sum(p < LEVEL for p in known)
    seeds = [pair for pair in pairs if pair.get("seed_holm") is not None]
    kind = "Welch's test over seeds" if len(seeds) == len(pairs) else "tests over seeds, or over prompts where a method has one seed"
    text = f"How sure: {told} of {len(pairs)} pairs differ at p < {LEVEL:g} by {kind}, Holm-adjusted"
    close = [f"{pair['first']} and {pair['second']}" for pair in pairs if (p := _p(pair)) is None or p >= LEVEL]
    text += f", and it remains open for {listed(close, _MOST)}" if close else ""
    single = [row["method"] for row in rows if row["seeds"] == 1]
    if single:
        text += (
            f"; {'every row' if len(single) == len(rows) else listed(single, _MOST)} has a single seed, which says nothing about a method"
        )
    if len(rows) > _MANY:
        text += f"; the best of {len(rows)} rows is in part the luckiest"
    return text + "."


def _lift(row: dict[str, Any]) -> str:
    return str(row["lift"]) if isinstance(row.get("lift"), Interval) else "not known"
