"""What the reward does not see: an independent judge, fluency, diversity; and who paid for reward with them."""

from __future__ import annotations

from typing import Any

from grade_lightning.measurements import NOT_FLUENT, is_own, kind_and_name
from grade_lightning.reporting.pairing import Prompt
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.significance import Interval
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.table1 import mean, number, over_seeds, paired_lift
from grade_lightning.reporting.variants import Variant

_LOST_DIVERSITY = 0.7  # of the initial policy's distinct-2
_NAMES = (
    "judge_mean", "completion_reward_mean", "perplexity", "repeated_4_mean", "distinct_2", "msttr", "entropy_2", "length_mean", "eos_rate",
    "kl_mean",
)  # fmt: skip


def _gap(runs: list[Run]) -> Interval | None:
    """Judge's lift minus the reward's, prompt by prompt: how much of the gain nobody but the reward sees."""
    differences: dict[Prompt, list[float]] = {}
    for run in runs:
        columns = [run.per_prompt(split, name) for name in ("judge", "reward") for split in ("test", "initial")]
        for key in set.intersection(*map(set, columns)):
            after_judge, before_judge, after, before = (column[key] for column in columns)
            differences.setdefault(key, []).append((after_judge - before_judge) - (after - before))
    return over_seeds(differences, len(runs))


def _row(variant: Variant) -> dict[str, Any]:
    runs = variant.tested
    tests = [run.results["test"] for run in runs]
    row: dict[str, Any] = {
        "method": variant.label,
        "reward_lift": paired_lift(runs),
        "judge_lift": paired_lift(runs, "judge"),
        "gap": _gap(runs),
    }
    for name in (*_NAMES, *_others(runs)):
        row[name] = mean([number(test, name) for test in tests])
    before = mean([number(run.results["initial"], "distinct_2") for run in runs if run.results["initial"]])
    row["distinct_kept"] = row["distinct_2"] / before if before else float("nan")
    fluency = mean([number(run.results["initial"], "perplexity") for run in runs if run.results["initial"]])
    row["perplexity_times"] = row["perplexity"] / fluency if fluency else float("nan")
    row["repeated_lift"] = paired_lift(runs, "repeated_4")
    row["perplexity_lift"] = paired_lift(runs, "perplexity")
    return row


def _initial_row(variants: list[Variant]) -> dict[str, Any] | None:
    measured = [run.results["initial"] for variant in variants for run in variant.runs if run.results["initial"]]
    names = (*_NAMES, *_others([run for variant in variants for run in variant.runs]))
    return {"method": "initial policy", **{name: mean([number(m, name) for m in measured]) for name in names}} if measured else None


def _others(runs: list[Run]) -> list[str]:
    """Means of the users' own judges, and of the parts of a reward."""
    return sorted({name for run in runs for name in run.results["test"] if is_own(name)})


def _title(name: str) -> str:
    kind, own = kind_and_name(name)
    return f"{'Judge' if kind == 'judge' else 'Part'}: {own}"


def quality(variants: list[Variant]) -> Table:
    """A row for each variant that was tested; lifts are paired by prompt, with 95% bootstrap intervals over prompts."""
    initial = _initial_row(variants)
    rows = [*([initial] if initial else []), *(_row(variant) for variant in variants if variant.tested)]
    columns = [
        ("method", "Method", ""), ("reward_lift", "Reward lift", ""), ("judge_lift", "Judge lift", ""), ("gap", "Judge - reward", ""),
        *((name, _title(name), ".3f") for name in _others([run for variant in variants for run in variant.runs])),
        ("completion_reward_mean", "Reward of completion alone", ".3f"), ("perplexity", "Perplexity under reference", ".1f"),
        ("perplexity_times", "times the initial", ".2f"),
        ("repeated_4_mean", "Repeated 4-grams", ".3f"), ("distinct_2", "Distinct-2", ".3f"), ("distinct_kept", "of the initial", ".0%"),
        ("msttr", "MSTTR-100", ".3f"), ("entropy_2", "Bigram entropy, bits", ".2f"),
        ("length_mean", "Tokens", ".1f"), ("eos_rate", "Ended", ".0%"), ("kl_mean", "KL, nats/token", ".3f"),
    ]  # fmt: skip
    notes = [
        "Judge: TF-IDF and logistic regression on labelled reviews that no split uses; nobody optimises it. A gap below 0 is reward that "
        "the judge does not see. Perplexity under the reference falls too when a policy keeps to a few likely phrases: read it with "
        "repeated 4-grams and distinct-2 (of all completions together). A judge of sentiment reads no grammar: where perplexity is more "
        f"than {NOT_FLUENT:g} times the initial policy's, its number may be that of words in a row. MSTTR and entropy are of words, as "
        "RL4LMs reports them.",
    ]
    return Table("Beyond the reward", columns, rows, notes)


def exploited(table: Table) -> list[str]:
    """Warnings that name what rose in reward while the judge or fluency fell."""
    warnings = []
    for row in table.rows:
        lift = row.get("reward_lift")
        if not isinstance(lift, Interval) or lift.low <= 0:
            continue
        faults = []
        judge, perplexity, repeated = (row.get(name) for name in ("judge_lift", "perplexity_lift", "repeated_lift"))
        if isinstance(judge, Interval) and judge.high < 0:
            faults.append(f"the judge's probability fell by {-judge.mean:.3f}")
        if isinstance(perplexity, Interval) and perplexity.low > 0:
            faults.append(f"perplexity under the reference rose by {perplexity.mean:.1f} a completion")
        if isinstance(repeated, Interval) and repeated.low > 0:
            faults.append(f"repeated 4-grams rose by {repeated.mean:.1%}")
        times = row["perplexity_times"]
        if isinstance(judge, Interval) and judge.low > 0 and times > NOT_FLUENT:
            faults.append(f"the judge agrees with text of {times:.1f} times the initial policy's perplexity: it may be words in a row")
        if row["distinct_kept"] < _LOST_DIVERSITY:
            faults.append(f"only {row['distinct_kept']:.0%} of distinct-2 is left")
        if faults:
            warnings.append(f"{row['method']}: reward rose by {lift.mean:.3f} while {', '.join(faults)}")
    return warnings
