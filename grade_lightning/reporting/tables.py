"""Tables as rows of named values, and their Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import math
from dataclasses import dataclass
from typing import Any

from grade_lightning.reporting.published import TABLE1, title
from grade_lightning.reporting.read import Run
from grade_lightning.reporting.statistics import Interval, few_interval, mean_interval


@dataclass
class Table:
    """Rows with the same keys; a column is (key, heading, format)."""

    columns: list[tuple[str, str, str]]
    rows: list[dict[str, Any]]
    notes: list[str]

    def _cells(self, row: dict[str, Any]) -> list[str]:
        return [_text(row.get(key), spec) for key, _, spec in self.columns]

    def markdown(self) -> str:
        lines = [[heading for _, heading, _ in self.columns], ["---"] * len(self.columns), *map(self._cells, self.rows)]
        return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n\n" + "\n".join(self.notes) + "\n"

    def latex(self) -> str:
        """A booktabs tabular."""
        lines = [[heading for _, heading, _ in self.columns], *map(self._cells, self.rows)]
        head, *body = [" & ".join(map(_escape, line)) + r" \\" for line in lines]
        inside = "\n".join([r"\toprule", head, r"\midrule", *body, r"\bottomrule"])
        return f"\\begin{{tabular}}{{l{'r' * (len(self.columns) - 1)}}}\n{inside}\n\\end{{tabular}}\n" + "".join(
            f"% {n}\n" for n in self.notes
        )

    def csv(self) -> str:
        """Unrounded; an interval takes three columns."""
        stream = io.StringIO()
        flat = [_flat(row) for row in self.rows]
        writer = csv.DictWriter(stream, list(dict.fromkeys(key for row in flat for key in row)), lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(flat)
        return stream.getvalue()


def _text(value: Any, spec: str) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    return str(value) if isinstance(value, str | Interval) else format(value, spec)


def _escape(text: str) -> str:
    return text.replace("%", r"\%").replace("_", r"\_").replace("±", r"$\pm$")


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in row.items():
        if isinstance(value, Interval):
            flat.update({key: value.mean, f"{key}_low": value.low, f"{key}_high": value.high})
        else:
            flat[key] = value
    return flat


def by_variant(runs: list[Run]) -> dict[tuple[str, str], list[Run]]:
    """Runs that differ in their seed alone, by (method, hash of everything else)."""
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        groups.setdefault((run.method, str(run.results.get("variant_hash", ""))), []).append(run)
    return groups


def repeated(runs: list[Run]) -> list[str]:
    """Warnings about methods that stand in several rows, and seeds that were run twice."""
    groups, warnings = by_variant(runs), []
    for method in sorted({method for method, _ in groups}):
        variants = [variant for name, variant in groups if name == method]
        if len(variants) > 1:
            warnings.append(f"{title(method)} was run with {len(variants)} configurations ({', '.join(variants)}): a row for each")
    for (method, variant), group in groups.items():
        if len({run.seed for run in group}) < len(group):
            warnings.append(f"{title(method)} {variant}: a seed was run more than once and counts as often")
    return warnings


def lift(runs: list[Run]) -> Interval | None:
    """Test reward minus that of the initial policy on the same prompts and noise, averaged over seeds, interval over prompts."""
    differences: dict[int, list[float]] = {}
    for run in runs:
        before, after = run.rewards("initial"), run.rewards("test")
        for key in before.keys() & after.keys():
            differences.setdefault(key, []).append(after[key] - before[key])
    complete = [math.fsum(values) / len(values) for _, values in sorted(differences.items()) if len(values) == len(runs)]
    return mean_interval(complete) if complete else None


def _mean(values: list[float]) -> float:
    finite = [value for value in values if not math.isnan(value)]
    return math.fsum(finite) / len(finite) if finite else math.nan


def _row(method: str, runs: list[Run]) -> dict[str, Any]:
    tested = [run for run in runs if "test" in run.results]
    tests = [float(run.results["test"]["reward_mean"]) for run in tested]
    bests = [float(run.results["best_validation"]["reward_mean"]) for run in runs]
    gaps = [float(r.results["best_validation"]["reward_mean"]) - float(r.results["test"]["reward_mean"]) for r in tested]
    row: dict[str, Any] = {
        "method": title(method), "seeds": len(runs), "test": few_interval(tests) if len(tests) > 1 else _mean(tests),
        "test_std": _mean([float(run.results["test"]["reward_std"] or math.nan) for run in tested]),
        "prompts": tested[0].results["test"]["n"] if tested else None, "best_validation": _mean(bests),
        "gap": _mean(gaps), "grad_norm_spread": _mean([run.mean("train/grad_norm_tensor_std") for run in runs]),
        "kl": _mean([float(run.results["test"].get("kl_mean", math.nan)) for run in tested]), "lift": lift(tested) if tested else None,
    }  # fmt: skip
    if method in TABLE1:
        published = TABLE1[method]
        row.update({
            "paper_test": f"{published.test_mean:.3f} ± {published.test_std:.3f}", "paper_best": published.best_validation,
            "paper_spread": published.grad_norm_spread, "paper_gap": published.gap,
        })  # fmt: skip
    return row


def _initial_row(runs: list[Run]) -> dict[str, Any] | None:
    measured = [run.results["initial"] for run in runs if "initial" in run.results]
    if not measured:
        return None
    return {
        "method": "initial policy", "seeds": len(measured), "test": _mean([float(m["reward_mean"]) for m in measured]),
        "test_std": _mean([float(m["reward_std"] or math.nan) for m in measured]), "prompts": measured[0]["n"], "kl": 0.0,
    }  # fmt: skip


def table1(runs: list[Run]) -> Table:
    """The paper's Table 1 with its published values beside ours, the initial policy as a row of its own.

    Several seeds: mean over seeds with a 95% interval.
    """
    groups = by_variant(runs)
    several = {method for method, _ in groups if sum(method == other for other, _ in groups) > 1}
    rows = []
    for (method, variant), group in groups.items():
        row = _row(method, group)
        rows.append({**row, "method": f"{row['method']} ({variant})"} if method in several else row)
    initial = _initial_row(runs)
    columns = [
        ("method", "Method", ""), ("seeds", "Seeds", "d"), ("test", "Test reward", ".3f"), ("test_std", "Std over prompts", ".3f"),
        ("lift", "Lift over step 0, paired", ".3f"), ("kl", "KL, nats/token", ".3f"), ("best_validation", "Best validation", ".3f"),
        ("gap", "Generalisation gap", ".3f"), ("grad_norm_spread", "Spread of tensors' gradient norms", ".3g"),
        ("paper_test", "Paper: test", ""), ("paper_best", "Paper: best val.", ".3f"), ("paper_gap", "Paper: gap", ".3f"),
        ("paper_spread", 'Paper: "Grad Var"', ".3g"),
    ]  # fmt: skip
    notes = [
        "Test reward: mean over seeds with Student's 95% interval where there are several. Std: over prompts, ddof 0.",
        "Lift: same prompts and noise as the initial policy, averaged over seeds, 95% bootstrap interval over prompts.",
        "Generalisation gap: best validation - test. Spread: mean over steps of the standard deviation of gradient norms across "
        'parameter tensors, which the paper calls "Grad Var"; it is not the variance of an estimator.',
        "The paper's values come from another model and other test prompts; they are comparable with ours only where the model, the "
        "protocol and the data are the paper's.",
    ]
    return Table(columns, [*([initial] if initial else []), *rows], notes)
