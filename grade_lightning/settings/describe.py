"""The settings in words: what ``--help`` and the documentation's table of keys are made from."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml
from pydantic_core import PydanticUndefined

from grade_lightning.settings.fields import fields_of, is_component
from grade_lightning.settings.method import MethodSettings
from grade_lightning.settings.parse import KNOWN, locate
from grade_lightning.settings.problems import in_yaml, select
from grade_lightning.settings.root import PretrainingSettings, Settings
from grade_lightning.settings.types import groups_in, nested, type_text

MUST = "must be given"


@dataclass(frozen=True)
class FieldDescription:
    """One key: dotted name, what it may be, what it is if nothing says otherwise, what it decides."""

    key: str
    type: str
    default: str
    doc: str


@dataclass(frozen=True)
class GroupDescription:
    """A group of keys.

    Attributes:
        name: such as ``rollout``; ``""`` for keys that belong to no group.
        option: the choices of the group that have these keys, such as ``ppo`` of ``method``; None where all have them.
        doc: what it is.
        fields: its keys.
    """

    name: str
    option: str | None
    doc: str
    fields: list[FieldDescription]


def _default(info: Any) -> str:
    return MUST if info.default is PydanticUndefined else in_yaml(info.default)


def _fields(group: type, prefix: str) -> list[FieldDescription]:
    return [
        FieldDescription(f"{prefix}{name}", type_text(info), _default(info), info.description or "")
        for name, info in fields_of(group).items()
        if not is_component(info) and nested(info.annotation) is None
    ]


def _groups(group: type, prefix: str, doc: str) -> Iterator[GroupDescription]:
    yield GroupDescription(prefix.rstrip("."), None, doc, _fields(group, prefix))
    for name, info in fields_of(group).items():
        for place, inner in enumerate(groups_in(info.annotation)):
            own = (inner.__doc__ or "").strip().splitlines()[0]
            for described in _groups(inner, f"{prefix}{name}.", own if place else info.description or ""):
                # What stands in the place of the usual group says which option it is of.
                yield replace(described, option=inner.option) if place else described  # type: ignore[attr-defined]


_POLYMORPHIC = (
    ("method", None), ("method", "relaxation"), ("temperature", None), ("reward", None), ("data", "source"), ("trainer", None),
    ("logger", "wandb"), ("logger", "tensorboard"), ("logger", "mlflow"),
)  # fmt: skip


def options_of(group: str, conf: Path) -> list[str]:
    """What a group may be chosen to be, by the YAML files of a folder."""
    return sorted(file.stem for file in (conf / group).glob("[!_]*.yaml"))


def _targets(conf: Path, group: str, key: str | None) -> dict[str, list[str]]:
    """Import path -> the options of a group that name it, in themselves or in what they inherit."""

    def read(option: str) -> dict[str, Any]:
        values = yaml.safe_load((conf / group / f"{option}.yaml").read_text()) or {}
        inherited = [str(base).split("@")[0] for base in values.get("defaults", []) if isinstance(base, str) and base != "_self_"]
        merged: dict[str, Any] = {}
        for base in inherited:
            if (conf / group / f"{base}.yaml").exists():
                merged |= read(base)
        return merged | values

    found: dict[str, list[str]] = {}
    for option in options_of(group, conf):
        values = read(option)
        inner = values if key is None else values.get(key)
        if isinstance(inner, dict) and "_target_" in inner:
            found.setdefault(inner["_target_"], []).append(option)
    return found


def method_facts(option: str) -> type[MethodSettings]:
    """The settings class, with its facts, of an option of the group method.

    Raises:
        ValueError: there is no such method.
    """
    for target, options in _targets(config_folder(), "method", None).items():
        if option in options:
            return KNOWN[target] if target in KNOWN else locate(target).Settings
    raise ValueError(f"method={option} is unknown: use one of the options that `python -m grade_lightning.run --help` lists")


def describe(conf: str | Path | None = None) -> list[GroupDescription]:
    """Every key of every group, options of the polymorphic groups apart.

    Args:
        conf: the folder of the YAML files, for the options' names; the checkout's or the package's if None.
    """
    folder = Path(conf) if conf is not None else config_folder()
    found = list(_groups(Settings, "", "A run"))
    for group, key in _POLYMORPHIC:
        prefix = f"{group}." if key is None else f"{group}.{key}."
        seen: set[type] = set()
        targets = _targets(folder, group, key)
        for target in targets:
            settings = KNOWN.get(target)
            if settings is None or settings in seen:
                continue
            seen.add(settings)
            options = [option for other, names in targets.items() if KNOWN.get(other) is settings for option in names]
            for described in _groups(settings, prefix, (settings.__doc__ or "").strip()):
                if described.fields:
                    found.append(GroupDescription(described.name, ", ".join(options), described.doc, described.fields))
    return found


def config_folder() -> Path:
    """Where the YAML files are: in an installed package its own copy, in a checkout the folder beside it."""
    package = Path(__file__).resolve().parents[1]
    return package / "conf" if (package / "conf").is_dir() else package.parent / "conf"


GROUPS = {
    "model": "base language model and its learning rates",
    "data": "where reviews come from, their splits and prompts",
    "reward": "what is maximised",
    "method": "what is compared",
    "temperature": "tau over the policy steps, for methods with relaxed tokens",
    "protocol": "which decisions are followed: a fair comparison, the paper's text, its code",
    "hardware": "device, precision, gradient accumulation",
    "evaluation": "how many prompts are evaluated, and when",
    "logger": "metrics.csv is always written; this adds others, several as logger=[wandb,tensorboard]",
    "trainer": "flags of Lightning's trainer",
    "callbacks": "Lightning callbacks, several as callbacks=[device_stats,early_stopping]",
    "experiment": "whole experiments in one word",
    "hparams_search": "with -m: search learning rates, or the frontier of reward and KL (Optuna)",
    "launcher": "with -m: run in parallel processes, on Slurm or on Ray",
}


def _entry(item: FieldDescription, here: str | None = None) -> list[str]:
    same = here is None or yaml.safe_load(here) == yaml.safe_load(item.default)
    text = f"{item.key}: {item.doc} ({item.type}) [{item.default if same else f'{item.default}; here {here}'}]"
    return textwrap.wrap(text, 110, initial_indent="  ", subsequent_indent="      ")


def help_text(composed: Mapping[str, Any] | None = None) -> str:
    """What ``python -m grade_lightning.run --help`` prints.

    Args:
        composed: values of the command beside ``--help``, which stand beside the defaults that they are not.
    """
    folder, lines = config_folder(), [_HEAD, "Groups: choose with group=option", ""]
    for group, doc in GROUPS.items():
        lines += textwrap.wrap(f"{group}: {', '.join(options_of(group, folder))}", 110, initial_indent="  ", subsequent_indent="      ")
        lines.append(f"      {doc}")
    lines += ["", "Keys: change with key=value; [default; here what groups of this command make of it]"]
    for described in describe(folder):
        if described.fields:
            head = described.name or "of no group"
            lines += ["", f"{head}{f' ({described.option})' if described.option else ''}: {described.doc}"]
        chosen = _is_chosen(composed, described, folder)
        for item in described.fields:
            lines += _entry(item, _here(composed, item.key) if chosen else None)
    return "\n".join([*lines, "", _TAIL])


def _is_chosen(composed: Mapping[str, Any] | None, described: GroupDescription, folder: Path) -> bool:
    """Whether a group's keys are those of the options that a composed configuration has."""
    if described.option is None:
        return True
    for group, key in _POLYMORPHIC:
        name = group if key is None else f"{group}.{key}"
        if described.name == name or described.name.startswith(f"{name}."):
            target = select(composed or {}, f"{name}._target_")
            if target is not None and set(_targets(folder, group, key).get(target, [])) & set(described.option.split(", ")):
                return True
    return False


def _here(composed: Mapping[str, Any] | None, key: str) -> str | None:
    """The value of a key in a composed configuration, in words; None where it has none, or one that only says where the run is written."""
    group, _, last = key.rpartition(".")
    inside = select(composed or {}, group) if group else composed
    if not isinstance(inside, Mapping) or last not in inside or key == "run.dir" or isinstance(inside[last], Mapping):
        return None
    return MUST if inside[last] == "???" else in_yaml(inside[last])


def pretraining_help() -> str:
    """What ``python -m grade_lightning.pretrain --help`` prints."""
    lines = ["Pretrain a small base LM on a corpus' unsupervised reviews.", "",
             "  python -m grade_lightning.pretrain data=parquet data.path=FOLDER pretrain=imdb out=FOLDER"]  # fmt: skip
    for described in _groups(PretrainingSettings, "", "keys"):
        lines += ["", f"{described.name}: {described.doc}".lstrip(": ")]
        for item in described.fields:
            lines += _entry(item)
    return "\n".join(lines)


_HEAD = """GRADE-Lightning: train a language model by backpropagating a reward through its own generations.

  python -m grade_lightning.run method=grade_ste
  python -m grade_lightning.run method=grade_ste data=parquet data.path=FOLDER model=local model.path=FOLDER
  python -m grade_lightning.run -m method=grade,grade_ste seed=1,2
"""
_TAIL = "Show the composed configuration of a command without running it: add --cfg job (--resolve fills in references)."
