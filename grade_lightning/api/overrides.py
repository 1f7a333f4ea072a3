"""From Python values to the overrides that the command line would have been given."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from grade_lightning.given import give, module_and_name
from grade_lightning.records.files import write_atomically
from grade_lightning.settings.describe import config_folder

PROMPTS = "prompts.jsonl"
_ADDED = ("evaluation.judges.", "reward.parts.", "logger.", "callbacks.")  # groups to which keys are added
_INTERFACE = ("differentiable", "soft", "range", "vocabulary", "reads_states", "scoped")  # of a reward, beside its score
_PLAIN = re.compile(r"(?!(true|false|null|nan|inf)$)[A-Za-z/][\w./:-]*", re.IGNORECASE)  # texts that need no quotes


def choices(group: str) -> set[str]:
    """Options of a configuration group."""
    return {file.stem for file in config_folder().joinpath(group).glob("[!_]*.yaml")}


def text_of(value: Any) -> str:
    """A value as Hydra's grammar of overrides reads it.

    Raises:
        ValueError: it is nothing that settings hold.
    """
    if hasattr(value, "item") and not isinstance(value, Mapping):  # a scalar of NumPy or torch
        value = value.item()
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str | Path):
        return str(value) if _PLAIN.fullmatch(str(value)) else _quoted(str(value))
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {text_of(item)}" for key, item in value.items()) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(text_of, value)) + "]"
    raise ValueError(f"{value!r} is a {type(value).__name__}: settings are numbers, texts, truth values, lists and dictionaries")


def _quoted(text: str) -> str:
    """A text in quotes: in Hydra's grammar a backslash is one, except before a quote, which it escapes."""
    inside = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + ("\\'" if found[2] else ""), text)
    return f"'{inside}'"


def flat(fields: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted keys and values of nested fields; ``optimizer__lr`` is ``optimizer.lr``."""
    for name, value in fields.items():
        key = f"{prefix}{name.replace('__', '.')}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{key}.")
        else:
            yield key, value


def of_fields(fields: Mapping[str, Any]) -> list[str]:
    """Overrides of further settings; a text for a whole group chooses one of its options."""
    found = []
    for key, value in flat(fields):
        group = config_folder().joinpath(key.replace(".", "/")).is_dir()
        added = "+" if "@" in key else "++" if key.startswith(_ADDED) else ""
        chosen = isinstance(value, str) and (group or "@" in key)
        found.append(f"{added}{key}={value if chosen else text_of(value)}")
    return sorted(found, key=lambda override: "." in override.split("=", 1)[0])  # a group before what changes it


def of_model(model: str | Path) -> list[str]:
    """A name of the model group, a folder, or a hub id."""
    if str(model) in choices("model"):
        return [f"model={model}"]
    return ["model=local", f"model.path={text_of(model)}"]


def of_reward(reward: Any) -> list[str]:
    """A function of texts, a reward, a name of the reward group, ``module:name``, or a classifier's folder or hub id.

    Raises:
        ValueError: it is none of these.
    """
    if reward is None:
        return []
    if not isinstance(reward, str | Path):
        if isinstance(reward, type) or not (callable(reward) or hasattr(reward, "score")):
            raise ValueError(f"reward={reward!r} is a {type(reward).__name__}: give a function of texts, a reward (an instance), or a name")
        lacking = [name for name in _INTERFACE if hasattr(reward, "score") and not hasattr(reward, name)]
        if lacking:
            raise ValueError(f"the reward {type(reward).__name__} has no {', '.join(lacking)}: see grade_lightning.rewards.base.Reward")
        importable = None if hasattr(reward, "score") else module_and_name(reward)
        if importable is not None:
            return ["reward=function", f"reward.function={text_of(importable)}"]
        return ["reward=given", f"reward.name={text_of(give(reward))}"]
    name = str(reward)
    if name in choices("reward"):
        return [f"reward={name}"]
    if Path(name).expanduser().is_dir() or ("/" in name and ":" not in name):
        return ["reward=sequence_classifier", f"reward.path={text_of(name)}"]
    if ":" in name:
        return ["reward=function", f"reward.function={text_of(name)}"]
    raise ValueError(f"reward={name} is neither a folder, module:name, nor one of {', '.join(sorted(choices('reward')))}")


def rows_of(prompts: Iterable[Any]) -> list[dict[str, Any]]:
    """Prompts as rows with a column ``prompt``: texts, chats (lists of messages), or rows that are given as they are.

    Raises:
        ValueError: one is none of these, or there are too few.
    """
    if isinstance(prompts, Mapping):
        raise ValueError(f"prompts is a mapping of {', '.join(map(str, prompts))}: choose one of them (a split of the data set)")
    if hasattr(prompts, "to_dict") and hasattr(prompts, "columns"):  # a table of pandas
        prompts = prompts.to_dict("records")
    rows = []
    for number, prompt in enumerate(prompts):
        if not isinstance(prompt, str | list | Mapping):
            raise ValueError(f"prompts[{number}] is a {type(prompt).__name__}: give texts, chats, or rows with a column prompt")
        rows.append(dict(prompt) if isinstance(prompt, Mapping) else {"prompt": prompt})
    if len(rows) < 3:
        raise ValueError(f"{len(rows)} prompts are too few: one each is needed to train, validate and test on")
    return rows


def of_prompts(prompts: Any, folder: Path, fields: Mapping[str, Any]) -> list[str]:
    """Prompts of a file, a folder or a hub id; or in memory, which are kept in the run folder.

    Args:
        prompts: see :func:`rows_of`; a text is a path.
        folder: of the run.
        fields: further settings: sizes of splits that they say are left alone.

    Raises:
        ValueError: see :func:`rows_of`; or the folder holds a run of other prompts.
    """
    if prompts is None:
        return []
    if isinstance(prompts, str | Path):
        return ["data=prompts", f"data.path={text_of(prompts)}"]
    rows = rows_of(prompts)
    try:
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    except TypeError as error:
        raise ValueError(f"prompts have a column that is no text, number or list ({error}): leave it out") from error
    file = folder / PROMPTS
    if (folder / "config.yaml").exists() and (not file.exists() or file.read_text() != text):
        raise ValueError(f"{folder} holds a run of other prompts: give another dir, or remove it")
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(file, text)
    return ["data=prompts", f"data.path={text_of(file)}", *_sizes(len(rows), dict(flat(fields)))]


def _sizes(count: int, given: Mapping[str, Any]) -> list[str]:
    """Splits of few prompts: a tenth to validate on, a fifth to test on, never more than the group's own sizes."""
    sizes = {"data.validation_rows": min(100, max(1, count // 10)), "data.test_rows": min(200, max(1, count // 5))}
    own = {"data.validation_rows": "data.validation_path", "data.test_rows": "data.test_path"}
    return [f"{key}={size}" for key, size in sizes.items() if key not in given and own[key] not in given]
