"""Settings of runs: which differ, and the few that tell configurations of one method apart in a label."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import combinations

from grade_lightning.records.identity import ADDED, idle, redefined
from grade_lightning.reporting.read import Run, flat

FACTS = ("protocol", "model", "data", "steps")
_NOT_SETTINGS = ("seed", "run.", "hydra", "logger", "callbacks", "quiet", "trainer._target_", "names.")
_METHOD = "method."
_START = "run.adapter"  # the one key of its group that says what a run is
_LAST = ("evaluation.", "hardware.")  # say little about what was trained
_MOST = 3  # settings in a label that all configurations of a method show
_VAGUE = {"value", "name", "path", "scope", "function", "start", "end", "weight"}  # mean nothing without the group they are of
ABSENT = "-"


def settings_of(run: Run) -> dict[str, str]:
    """What a run's configuration decides, by dotted name; what its version could not choose has the value it had."""
    own = {key: value for key, value in run.config.items() if key == _START or not key.startswith(_NOT_SETTINGS)}
    found = {**dict(flat("", ADDED)), **own} if own else {}
    unused = {f"{_METHOD}{key}" for key in idle(_of_method(found))}
    return {key: value for key, value in found.items() if key not in unused}


def meant_otherwise(run: Run) -> bool:
    """Whether a run has a setting that did not mean the same in every version."""
    return bool(redefined(_of_method(run.config)))


def _of_method(settings: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix(_METHOD): value for key, value in settings.items() if key.startswith(_METHOD)}


def comparable(run: Run) -> dict[str, str]:
    """Settings with the last part of folders alone: on another machine the same data may lie elsewhere."""
    return {
        key: str(value).rstrip("/").rsplit("/", 1)[-1] if key.split(".")[-1] == "path" else value for key, value in settings_of(run).items()
    }


def different_settings(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Settings whose values are not the same in all runs, by dotted name, in the order of the runs; "-" where one lacks it."""
    keys = sorted({key for run in runs for key in settings_of(run)})
    columns = {key: [settings_of(run).get(key, ABSENT) for run in runs] for key in keys}
    return {key: values for key, values in columns.items() if len(set(values)) > 1}


def told_apart(runs: Sequence[Run]) -> list[str]:
    """For each run, one of each configuration, the settings in which it differs from the others; "" where none are recorded.

    The fewest settings that tell all of them apart, found greedily, and one of each other group that differs, if few do; where that is
    much, for each run the fewest that tell it from the rest.
    """
    columns = _columns(runs)
    pairs = list(combinations(range(len(runs)), 2))
    shared = _with_every_group(columns, _cover(columns, pairs))
    found = []
    for place in range(len(runs)):
        keys = shared if len(shared) <= _MOST else _cover(columns, [pair for pair in pairs if place in pair])
        shown = [_shown(key, columns[key][place]) for key in keys if columns[key][place] != ABSENT]
        found.append(", ".join(shown))
    return found


def _columns(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Values by key, in the order in which keys are preferred among those that tell as many runs apart."""
    if not all(run.config for run in runs):
        return {}
    facts = {fact: [str(run.results.get(fact, ABSENT)) for run in runs] for fact in FACTS}
    settings = {key: [comparable(run).get(key, ABSENT) for run in runs] for key in different_settings(runs)}
    ordered = sorted(settings, key=lambda key: (key.startswith(_LAST), ABSENT in settings[key], key.count("."), len(key), key))
    return {**{key: column for key, column in facts.items() if len(set(column)) > 1}, **{key: settings[key] for key in ordered}}


def _cover(columns: dict[str, list[str]], pairs: list[tuple[int, int]]) -> list[str]:
    """Keys of which at least one differs in every pair that any key tells apart."""
    chosen: list[str] = []
    for late in (False, True):
        keys = [key for key in columns if key.startswith(_LAST) == late]
        while pairs and keys:
            best = max(keys, key=lambda key: sum(columns[key][a] != columns[key][b] for a, b in pairs))
            left = [(a, b) for a, b in pairs if columns[best][a] == columns[best][b]]
            if len(left) == len(pairs):
                break
            chosen.append(best)
            pairs = left
    return chosen


def _group(key: str) -> str:
    """What a setting belongs to: groups that a method repeats, and old names, count as one."""
    first = key.removeprefix("method.").split(".")[0]
    return {"tau": "temperature"}.get(first, first)


def _with_every_group(columns: dict[str, list[str]], chosen: list[str]) -> list[str]:
    """The chosen keys, and one of each group that they leave out, so that a label hides no second difference; unless these are many.

    A setting that some runs lack came with another version or belongs to another choice, and says nothing by itself.
    """
    groups: dict[str, list[str]] = {}
    for key in columns:
        if not key.startswith(_LAST):
            groups.setdefault(_group(key), []).append(key)
    known = [[key for key in keys if ABSENT not in columns[key]] for group, keys in groups.items() if group not in map(_group, chosen)]
    more = [min(keys, key=lambda key: -len(set(columns[key]))) for keys in known if keys]
    return [*chosen, *more] if len(chosen) + len(more) <= _MOST else chosen


def _shown(key: str, value: str) -> str:
    group, _, last = key.rpartition(".")
    if last == "_target_":
        return f"{group.rpartition('.')[2]}={value.rpartition('.')[2]}"
    name = f"{group.rpartition('.')[2]}.{last}" if last in _VAGUE and group else last
    return f"{name}={value if len(value) <= 24 else value[:23] + '…'}"


def folder_says(run: Run) -> str:
    """What the folder's own name says more than method, seed and hash; else nothing."""
    name = re.sub(r"-?seed-?\d+|(^|-)[0-9a-f]{8}$", "", run.folder.name)
    name = re.sub(rf"^{re.escape(run.method)}(-|$)|-{re.escape(run.method)}$", "", name)
    return re.sub(r"^\d+$", "", name)
