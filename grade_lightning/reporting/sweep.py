"""Methods that were run at several weights of the KL, compared at equal KL: the table of a report."""

from __future__ import annotations

from grade_lightning.reporting.differences import FACTS
from grade_lightning.reporting.equal_kl import INTERVAL_SEEDS, LEAST, QUANTITIES, USED, difference
from grade_lightning.reporting.lines import Line, curves_of, lines
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.variants import Variant

REFERENCES = ("rloo", "grpo", "reinforce", "ppo")  # the first of these that was swept is what others are compared with


def swept(variants: list[Variant]) -> list[Line]:
    """Methods with several weights of the KL, tested under the same conditions as the one that they are compared with, that one first."""
    found = [line for line in lines(variants) if line.weights]
    ranks = {method: place for place, method in enumerate(REFERENCES)}
    found.sort(key=lambda line: ranks.get(line.method, len(ranks)))
    return [line for line in found if _conditions(variants, line) == _conditions(variants, found[0])]


def equal_kl(variants: list[Variant]) -> Table | None:
    """What each method has beyond the reference at equal KL; None where no two methods were run at several weights."""
    found = swept(variants)
    if len(found) < 2:
        return None
    curves = curves_of({line.label: [run for place in line.places for run in variants[place].tested] for line in found})
    reference, *others = found
    if QUANTITIES[0].key not in curves.start:
        return None
    compared = {line.label: difference(curves, line.label, reference.label) for line in others}
    rows = [{"method": label, "reference": reference.label, **one.row(curves.start)} for label, one in compared.items()]
    columns = [("method", f"Beyond {reference.label}", ""), ("kls", "KLs, nats/token", ""), ("seeds", "Seeds", "d")]
    columns += [(quantity.key, quantity.title, "") for quantity in QUANTITIES if quantity.key in curves.start]
    note = (
        f"Tests at several kl_coef: curves through all runs of a method, {USED.title} (through the initial policy where it has two "
        "weights; logits of what lies between 0 and 1, logarithm of perplexity), mean difference over the KLs that both enclose, of the "
        f"seeds that both have; Student's 95% interval of the jackknife over seeds where there are {INTERVAL_SEEDS}, {LEAST} runs at least."
    )
    return Table("Equal KL", columns, rows, [note])


def _conditions(variants: list[Variant], line: Line) -> tuple[str, ...]:
    """What must be the same for rewards to be one quantity."""
    results = variants[line.places[0]].runs[0].results
    return tuple(str(results.get(fact)) for fact in (*FACTS, "reward_fingerprint") if fact != "steps")
