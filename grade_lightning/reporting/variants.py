"""Runs that differ in their seed alone, their labels and their looks."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from dataclasses import dataclass

from grade_lightning.reporting.differences import FACTS, comparable, folder_says, meant_otherwise, settings_of, told_apart
from grade_lightning.reporting.palette import Look, looks, title
from grade_lightning.reporting.published import comparable_with_paper
from grade_lightning.reporting.read import Run


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
    def like_paper(self) -> bool:
        """Whether published numbers may stand beside these runs'."""
        return all(comparable_with_paper(run.results, run.config) for run in self.runs)

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
    variants, seen = [], set()
    for (method, variant), (members, differs) in _labelled(groups).items():
        label = title(method)
        if differs:
            label += f" ({differs})"
        if label in seen:
            label += f" [{variant}]"
        seen.add(label)
        variants.append(Variant(method, label, members, tuple(sorted(_unknown(members)))))
    return variants


def _labelled(groups: dict[tuple[str, str], list[Run]]) -> dict[tuple[str, str], tuple[list[Run], str]]:
    """Each group with what tells it from the others of its method: settings, else its folders' name, else its hash; "" if it is alone."""
    said: dict[tuple[str, str], str] = {}
    for method in dict.fromkeys(method for method, _ in groups):
        keys = [key for key in groups if key[0] == method]
        if len(keys) == 1:
            continue
        found = told_apart([groups[key][0] for key in keys])
        for key, settings in zip(keys, found, strict=True):
            unique = settings if found.count(settings) == 1 else ""
            said[key] = unique or folder_says(groups[key][0]) or key[1]
    return {key: (members, said.get(key, "")) for key, members in groups.items()}


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


def _unknown(members: list[Run]) -> set[str]:
    known = [settings_of(run).keys() for run in members if run.config]
    return {key for keys in known for key in keys if not all(key in others for others in known)}


def _adds_settings(first: Run, second: Run) -> bool:
    """Whether the second run's configuration is the first's with settings that the first does not know.

    Never where a setting meant something else in an earlier version: then only equal hashes say that two configurations are one.
    """
    if any(meant_otherwise(run) for run in (first, second)):
        return False
    facts = all(first.results.get(fact) == second.results.get(fact) for fact in FACTS)
    old, new = comparable(first), comparable(second)
    return facts and 0 < len(old) < len(new) and old.items() <= new.items()


def _fingerprint(run: Run) -> str:
    """What tells configurations apart where the run has no hash of its own."""
    facts = [str(run.results.get(key)) for key in FACTS]
    return hashlib.sha256(repr((facts, sorted(settings_of(run).items()))).encode()).hexdigest()[:8]


def looks_of(variants: list[Variant]) -> dict[str, Look]:
    """Looks by label: a method's own colour, another dash and marker for each of its configurations."""
    return dict(zip([variant.label for variant in variants], looks([variant.method for variant in variants]), strict=True))


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
