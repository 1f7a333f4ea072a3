"""What is wrong with settings, in words."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from grade_lightning.settings.fields import fields_of
from grade_lightning.settings.types import group_of, groups_in, type_text


@dataclass(frozen=True)
class Problem:
    """One setting that cannot be used.

    Attributes:
        key: dotted. reason: what is wrong and what to do. shown: the value as it was given; None where none was.
    """

    key: str
    reason: str
    shown: str | None = None


class SettingsError(ValueError):
    """All settings of a run that cannot be used; its message is meant for the user."""

    def __init__(self, problems: Sequence[Problem], origin: Callable[[str], str | None] = lambda key: None):
        self.problems = list(problems)
        lines = []
        for problem in self.problems:
            where = origin(problem.key)
            given = problem.key if problem.shown is None else f"{problem.key}={problem.shown}"
            lines.append(f"{given}{f' ({where})' if where else ''}: {problem.reason}")
        head = "" if len(lines) == 1 else f"{len(lines)} settings cannot be used:\n  "
        super().__init__(head + "\n  ".join(lines))


def known_keys(group: type, prefix: str = "") -> Iterator[str]:
    """Dotted keys of a group and of the groups inside it, also of those that stand in each other's place."""
    for name, info in fields_of(group).items():
        yield f"{prefix}{name}"
        for inner in groups_in(info.annotation):
            yield from known_keys(inner, f"{prefix}{name}.")


# What other packages, papers and habit call a setting.
ALIASES = {
    "lr": "optimizer.lr", "learning_rate": "optimizer.lr", "max_grad_norm": "optimizer.max_grad_norm",
    "beta": "kl_coef", "kl_beta": "kl_coef", "kl_weight": "kl_coef", "init_kl_coef": "kl_coef", "kl": "kl_coef",
    "tau": "temperature.value", "batch_size": "effective_batch_size", "train_batch_size": "effective_batch_size",
    "generations": "method.completions_per_prompt", "num_generations": "method.completions_per_prompt",
    "group_size": "method.completions_per_prompt", "rloo_k": "method.completions_per_prompt",
    "gradient_accumulation_steps": "hardware.grad_accumulation", "precision": "hardware.precision",
    "steps": "max_steps", "num_steps": "max_steps", "iterations": "max_steps", "max_length": "max_new_tokens",
    "max_tokens": "max_new_tokens", "max_completion_length": "max_new_tokens", "new_tokens": "max_new_tokens",
    "rank": "model.lora.r", "r": "model.lora.r", "lora_r": "model.lora.r", "output_dir": "run.dir", "dir": "run.dir",
    "resume_from_checkpoint": "run.resume", "resume": "run.resume", "eval_steps": "evaluation.validate_every",
}  # fmt: skip
_ANYWHERE = ("", "method", "model", "optimizer", "trainer", "training")  # groups whose keys an alias of another group may have meant


def nearest(key: str, candidates: Sequence[str]) -> str:
    """The known key that is spelled most like this one, or that others call so: of the same group if one is near, else of any, else of the
    same group."""
    group, last = key.rpartition(".")[0], key.rpartition(".")[2]
    meant = ALIASES.get(last)
    if meant is not None:
        own = f"{group}.{meant.rpartition('.')[2]}"
        if own in candidates:
            return own
        if group in _ANYWHERE and meant in candidates:
            return meant
    beside = {c.rpartition(".")[2]: c for c in candidates if c.rpartition(".")[0] == group}
    ends = {c.rpartition(".")[2]: c for c in candidates}
    for options, cutoff in ((beside, 0.6), (ends, 0.75), (beside, 0.0), (ends, 0.0)):
        found = difflib.get_close_matches(last, options, n=1, cutoff=cutoff)
        if found:
            return options[found[0]]
    return candidates[0]


def problem_of(prefix: str, group: type, value: Mapping[str, Any], detail: ErrorDetails, elsewhere: Sequence[str] = ()) -> Problem:
    """pydantic's error as ours: the deepest known key, and what its field allows."""
    path, info, rest = [], None, list(detail["loc"])
    inner: type | None = group
    while rest and inner is not None:
        name = str(rest.pop(0))
        path.append(name)
        info = fields_of(inner).get(name)
        inner = group_of(info, select(value, ".".join(path))) if info is not None else None
        while inner is not None and rest and str(rest[0]) not in fields_of(inner) and str(rest[0]) == inner.__name__:
            rest.pop(0)  # pydantic names the member of a union
    key = prefix + ".".join(path)
    if detail["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        refused = getattr(group, "REFUSED", {}).get(key.removeprefix(prefix))
        if refused is not None:
            return Problem(key, refused, shown(detail["input"]))
        candidates = [*elsewhere, *(f"{prefix}{name}" for name in known_keys(group))]
        if key in candidates:
            return Problem(
                key, "another choice of this group has such a setting, and this one has not: leave it out", shown(detail["input"])
            )
        guess = nearest(key, candidates)
        return Problem(key, f"there is no such setting: did you mean {guess}?", shown(detail["input"]))
    if detail["type"].startswith("missing"):
        return Problem(key, "it is missing and must be given")
    if detail["type"] == "value_error":
        return Problem(key.rstrip("."), str(detail["ctx"]["error"]))
    return Problem(key, f"it must be {type_text(info)}" if info is not None else detail["msg"], shown(select(value, ".".join(path))))


def in_yaml(value: Any) -> str:
    """A value as the command line takes it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def shown(value: Any) -> str:
    text = in_yaml(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def select(resolved: Mapping[str, Any], key: str) -> Any:
    value: Any = resolved
    for name in key.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def in_words(group: type, values: Mapping[str, Any], error: ValidationError) -> SettingsError:
    """The error of a settings group that was made in Python."""
    return SettingsError([problem_of("", group, values, detail) for detail in error.errors()])


def refuse(key: str, reason: str) -> NoReturn:
    """Raise a :class:`SettingsError` of one setting that only this machine or its files show to be wrong."""
    raise SettingsError([Problem(key, reason)])
