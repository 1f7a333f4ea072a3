"""From plain values to checked settings, with everything that is wrong said at once."""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError

from grade_lightning.settings.data import SOURCES
from grade_lightning.settings.fields import Component, are_components, fields_of, is_component
from grade_lightning.settings.methods import METHODS
from grade_lightning.settings.problems import Problem, SettingsError, known_keys, problem_of, select, shown
from grade_lightning.settings.reward import REWARDS
from grade_lightning.settings.root import PretrainingSettings, Settings
from grade_lightning.settings.rules import faults
from grade_lightning.settings.schedules import RELAXATIONS, SCHEDULES
from grade_lightning.settings.tracking import LOGGERS, TRAINERS
from grade_lightning.settings.types import group_of

KNOWN: dict[str, type] = {**METHODS, **SCHEDULES, **RELAXATIONS, **REWARDS, **SOURCES, **LOGGERS, **TRAINERS}
_NAME = re.compile(r"[A-Za-z]\w*")
MISSING = "???"  # what OmegaConf writes where a value must be given


def parse_pretraining(resolved: Mapping[str, Any]) -> PretrainingSettings:
    """Check the values of the entry that pretrains a base LM.

    Raises:
        SettingsError: with every problem that was found.
    """
    problems: list[Problem] = []
    if isinstance(resolved.get("data"), Mapping) and "prompt_column" in resolved["data"]:
        raise SettingsError([Problem("data", "prompts are no reviews to pretrain on: choose data=synthetic, parquet, aclimdb or hub")])
    made = _group("", PretrainingSettings, _without_missing("", resolved, problems), problems)
    if problems:
        raise SettingsError(problems)
    return made


def parse(resolved: Mapping[str, Any]) -> Settings:
    """Check plain values, as a resolved configuration holds them.

    Raises:
        SettingsError: with every problem that was found.
    """
    problems: list[Problem] = []
    plain = dict(_without_missing("", resolved, problems))
    made = _group("", Settings, plain, problems)
    if not problems:
        problems = [Problem(key, reason, _shown_alone(select(resolved, key))) for key, reason in faults(made)]
    if problems:
        raise SettingsError(list({problem.key: problem for problem in reversed(problems)}.values())[::-1])
    return made


def _without_missing(prefix: str, value: Any, problems: list[Problem]) -> Any:
    if not isinstance(value, Mapping):
        return value
    kept = {}
    for name, item in value.items():
        if isinstance(item, str) and item == MISSING:
            problems.append(Problem(f"{prefix}{name}", _MISSING_REASONS.get(f"{prefix}{name}", "it is missing and must be given")))
        else:
            kept[str(name)] = _without_missing(f"{prefix}{name}.", item, problems)
    return kept


def _shown_alone(value: Any) -> str | None:
    """A value as a message shows it; a whole group is not shown."""
    return None if isinstance(value, Mapping) else shown(value)


_MISSING_REASONS = {
    "data.path": "name the prompts: data.path=FILE (.jsonl, .json, .csv or .parquet), a folder of such files, or a hub id",
    "model.path": "name the folder of a model in the Hugging Face layout: model.path=FOLDER",
}


def _group(key: str, group: type, value: Any, problems: list[Problem]) -> Any:
    """An instance of a settings group; None, and problems, where that cannot be."""
    prefix = f"{key}." if key else ""
    if not isinstance(value, Mapping):
        problems.append(Problem(key, f"it is a group of settings ({', '.join(fields_of(group))})", shown(value)))
        return None
    reported, everywhere = {problem.key for problem in problems}, list(known_keys(Settings))
    try:
        return TypeAdapter(group).validate_python(_with_components(prefix, group, value, problems))
    except ValidationError as error:
        for detail in error.errors():
            problem = problem_of(prefix, group, value, detail, everywhere)
            said = detail["type"].startswith("missing") or detail["type"] == "value_error"  # of a value that was left out
            if not (said and any(key == problem.key or key.startswith(f"{problem.key}.") for key in reported)):
                problems.append(problem)
        return None


def _with_components(prefix: str, group: type, value: Mapping[str, Any], problems: list[Problem]) -> dict[str, Any]:
    """The values of a group, its components (at any depth) made."""
    found = dict(value)
    for name, info in fields_of(group).items():
        inner = group_of(info, found.get(name))
        if is_component(info) and info.is_required() and name in found and found[name] is None:
            problems.append(Problem(f"{prefix}{name}", "it must be given: choose one of the group's options", "null"))
        elif is_component(info) and found.get(name) is not None:
            found[name] = _component(f"{prefix}{name}", found[name], problems)
        elif are_components(info) and name in found:
            found[name] = _components(f"{prefix}{name}", found[name], problems)
        elif inner is not None and isinstance(found.get(name), Mapping):
            found[name] = _with_components(f"{prefix}{name}.", inner, found[name], problems)
    return found


def _components(key: str, value: Any, problems: list[Problem]) -> dict[str, Component]:
    """Components by name; a null takes a name out."""
    if not isinstance(value, Mapping):
        problems.append(Problem(key, "it maps names to groups with a _target_", shown(value)))
        return {}
    wrong = [name for name in value if not _NAME.fullmatch(str(name))]
    problems += [Problem(f"{key}.{name}", "a name is made of letters, digits and underscores", str(name)) for name in wrong]
    made = {str(name): _component(f"{key}.{name}", item, problems) for name, item in value.items() if item is not None}
    return {name: component for name, component in made.items() if component is not None}


def _component(key: str, value: Any, problems: list[Problem]) -> Component | None:
    if not isinstance(value, Mapping) or not isinstance(value.get("_target_"), str):
        problems.append(Problem(key, "it is a group with a _target_: choose one of the group's options", shown(value)))
        return None
    target, partial = value["_target_"], value.get("_partial_", False)
    if not isinstance(partial, bool):
        problems.append(Problem(f"{key}._partial_", "it is true or false", shown(partial)))
        return None
    plain = {name: item for name, item in value.items() if name not in ("_target_", "_partial_")}
    group = KNOWN.get(target)
    if group is None:
        try:
            thing = locate(target)
        except ValueError as error:
            problems.append(Problem(f"{key}._target_", str(error), target))
            return None
        group = getattr(thing, "Settings", None)
        if group is None:
            unknown = [name for name in plain if not _takes(thing, name)]
            problems += [Problem(f"{key}.{name}", f"{target} takes no such argument", shown(plain[name])) for name in unknown]
            return Component(target, plain, partial)
    made = _group(key, group, plain, problems)
    return None if made is None else Component(target, made, partial)


def locate(target: str) -> Any:
    """The class or function of an import path.

    Raises:
        ValueError: nothing there that can be called, or part of Python itself.
    """
    module, _, name = target.rpartition(".")
    if module.split(".")[0] in sys.stdlib_module_names or not module:
        raise ValueError("a _target_ is package.module.Name of an installed package, and none of Python's own")
    try:
        thing = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(f"it cannot be imported ({error})") from error
    if not callable(thing) or getattr(thing, "__module__", "").split(".")[0] in sys.stdlib_module_names:
        raise ValueError("a _target_ is a class or function of an installed package, and none of Python's own")
    return thing


def _takes(thing: Any, name: str) -> bool:
    parameters = inspect.signature(thing).parameters.values()
    return any(p.name == name or p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
