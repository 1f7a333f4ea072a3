"""Runs that differ in their seed alone, their names and their colours."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from grade_lightning.records.identity import ADDED
from grade_lightning.reporting.published import title
from grade_lightning.reporting.read import Run, flat

# Okabe and Ito's colours, which colour-blind readers can tell apart; line styles tell them apart in print.
COLOURS = {
    "grade": "#E69F00", "grade_ste": "#0072B2", "ppo": "#009E73", "reinforce": "#CC79A7", "rloo": "#D55E00", "grpo": "#56B4E9",
    "hybrid": "#8C564B",
}  # fmt: skip
_OTHERS = ("#7F7F7F", "#9467BD", "#BCBD22", "#17BECF", "#AEC7E8")
STYLES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)))
FACTS = ("protocol", "model", "data", "steps")
_NOT_SETTINGS = ("seed", "run.", "hydra", "logger.", "names.")


@dataclass(frozen=True)
class Variant:
    """One method with one configuration.

    Attributes:
        label: for tables and legends; unique in a report.
        runs: one for each seed.
        unknown: settings that some of the runs do not know, because an earlier version of the program wrote them.
    """

    method: str
    label: str
    runs: list[Run]
    unknown: tuple[str, ...] = ()

    @property
    def tested(self) -> list[Run]:
        return [run for run in self.runs if run.results["test"]]


def group(runs: list[Run]) -> list[Variant]:
    """Variants in order of method; a method with several configurations gets what tells them apart into its label."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        # Runs whose settings are equal may still have been rewarded by, or begun with, other files or functions under the same name.
        named = "".join(f" {run.results[key]}" for key in ("reward_fingerprint", "adapter_fingerprint") if run.results.get(key))
        groups[run.method, str(run.results.get("variant_hash") or _fingerprint(run)) + named].append(run)
    groups = _across_versions(groups)
    methods = [method for method, _ in groups]
    variants, seen = [], set()
    for (method, variant), members in groups.items():
        label = title(method)
        if methods.count(method) > 1:
            others = [runs for (other, name), runs in groups.items() if other == method and name != variant]
            label += f" ({_what_differs(members, others) or variant})"
        if label in seen:
            label += f" [{variant}]"
        seen.add(label)
        variants.append(Variant(method, label, members, tuple(sorted(_unknown(members)))))
    return variants


def _across_versions(groups: dict[tuple[str, str], list[Run]]) -> dict[tuple[str, str], list[Run]]:
    """A group joins the only other one of its method that knows more settings and agrees in all that both know.

    A setting that came with a later version is no difference; where several later groups would do, it is left alone.
    """
    joins = {}
    for key, members in groups.items():
        later = [other for other, runs in groups.items() if other[0] == key[0] and _adds_settings(members[0], runs[0])]
        if len(later) == 1:
            joins[key] = later[0]
    found: dict[tuple[str, str], list[Run]] = {}
    for key, members in groups.items():
        target = key
        while target in joins:
            target = joins[target]
        found.setdefault(target, []).extend(members)
    return {key: sorted(members, key=lambda run: run.seed) for key, members in found.items()}


def _settings(run: Run) -> dict[str, str]:
    """What a run's configuration decides, by dotted name; what its version could not choose has the value it had."""
    own = {key: value for key, value in run.config.items() if not key.startswith(_NOT_SETTINGS) or key == "run.adapter"}
    return {**dict(flat("", ADDED)), **own} if own else {}


def _comparable(run: Run) -> dict[str, str]:
    """Settings with the last part of folders alone: on another machine the same data may lie elsewhere."""
    return {
        key: str(value).rstrip("/").rsplit("/", 1)[-1] if key.split(".")[-1] == "path" else value for key, value in _settings(run).items()
    }


def _unknown(members: list[Run]) -> set[str]:
    known = [_settings(run).keys() for run in members if run.config]
    return {key for keys in known for key in keys if not all(key in others for others in known)}


def _adds_settings(first: Run, second: Run) -> bool:
    """Whether the second run's configuration is the first's with settings that the first does not know."""
    facts = all(first.results.get(fact) == second.results.get(fact) for fact in FACTS)
    old, new = _comparable(first), _comparable(second)
    return facts and 0 < len(old) < len(new) and old.items() <= new.items()


def _fingerprint(run: Run) -> str:
    """What tells configurations apart where the run has no hash of its own."""
    facts = [str(run.results.get(key)) for key in FACTS]
    return hashlib.sha256(repr((facts, sorted(_settings(run).items()))).encode()).hexdigest()[:8]


def _what_differs(members: list[Run], others: list[list[Run]]) -> str:
    """The folder's own name where it says more than method, seed and hash; else up to three settings; else nothing."""
    first = members[0]
    name = re.sub(r"-?seed-?\d+|(^|-)[0-9a-f]{8}$", "", first.folder.name)
    name = re.sub(rf"^{re.escape(first.method)}(-|$)|-{re.escape(first.method)}$", "", name)
    name = re.sub(r"^\d+$", "", name)
    if name:
        return name
    keys = {key for other in others for key in different_settings([first, other[0]])}
    return ", ".join(f"{key.split('.')[-1]}={first.config.get(key, '-')}" for key in sorted(keys)) if 0 < len(keys) <= 3 else ""


def different_settings(runs: list[Run]) -> dict[str, list[str]]:
    """Settings whose values are not the same in all runs, by dotted name, in the order of the runs; "-" where one lacks it."""
    keys = sorted({key for run in runs for key in _settings(run)})
    columns = {key: [_settings(run).get(key, "-") for run in runs] for key in keys}
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def colours(variants: list[Variant]) -> dict[str, tuple[str, Any]]:
    """(colour, line style) by label: a method's own colour, another line style for each of its configurations."""
    found: dict[str, tuple[str, Any]] = {}
    count: dict[str, int] = defaultdict(int)
    spare = dict(COLOURS)
    for variant in variants:
        if variant.method not in spare:
            spare[variant.method] = _OTHERS[(len(spare) - len(COLOURS)) % len(_OTHERS)]
        found[variant.label] = spare[variant.method], STYLES[count[variant.method] % len(STYLES)]
        count[variant.method] += 1
    return found


def repeated(variants: list[Variant]) -> list[str]:
    """Warnings about methods that stand in several rows, seeds that were run twice and variants with one seed."""
    warnings = []
    for method in sorted({variant.method for variant in variants}):
        labels = [variant.label for variant in variants if variant.method == method]
        if len(labels) > 1:
            warnings.append(f"{title(method)} was run with {len(labels)} configurations ({listed(labels)}): a row for each")
    for variant in variants:
        if len({run.seed for run in variant.runs}) < len(variant.runs):
            warnings.append(f"{variant.label}: a seed was run more than once and counts as often")
    unknown = sorted({key for variant in variants for key in variant.unknown})
    if unknown:
        warnings.append(f"some runs do not know the settings {listed(unknown)}: an earlier version, taken to have had the same")
    single = [variant.label for variant in variants if len(variant.runs) == 1]
    if single:
        warnings.append(f"a single seed each, no statement about the method is possible: {listed(single)}")
    sets = {frozenset(run.seed for run in variant.runs) for variant in variants}
    if len(sets) > 1:
        counts = "; ".join(f"{variant.label} {len({run.seed for run in variant.runs})}" for variant in variants[:12])
        warnings.append(f"not every row has the same seeds ({counts}{'; ...' if len(variants) > 12 else ''}): are runs missing?")
    return warnings


def listed(labels: list[str], most: int = 8) -> str:
    """Labels in a sentence, the first few of many."""
    return ", ".join(labels[:most]) + (f" and {len(labels) - most} more" if len(labels) > most else "")
