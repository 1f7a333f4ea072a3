"""Any Python function of texts as a reward."""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import inspect
import math
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from grade_lightning.given import source_of
from grade_lightning.rewards.base import Completions, Reward, RewardInputs

SHOWN = 200  # characters of a completion in a message


def load_function(name: str) -> Callable[..., Any]:
    """The function that ``package.module:name`` names; modules beside the working directory are found.

    Raises:
        ValueError: there is none.
    """
    module, colon, attribute = name.partition(":")
    if not colon or not module or not attribute:
        raise ValueError(f"reward.function={name} is no package.module:name")
    if module.split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        raise ValueError(f"reward.function={name} is part of Python itself: name a function of a module of yours")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise ValueError(f"reward.function={name} cannot be imported from {here}: {error}") from error
    if not callable(found):
        raise ValueError(f"reward.function={name} is a {type(found).__name__}, no function")
    if str(getattr(found, "__module__", "")).split(".")[0] in sys.stdlib_module_names - {"__main__"}:
        raise ValueError(f"reward.function={name} is part of Python itself: name a function of a module of yours")
    return found


def source_fingerprint(function: Callable[..., Any]) -> str | None:
    """A short hash of the file that a function stands in, in a notebook of its own text; None where it has neither."""
    try:
        file = inspect.getsourcefile(inspect.unwrap(function) if inspect.isroutine(function) else type(function))
    except TypeError:
        return None
    if file is not None and Path(file).is_file():
        return hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]
    text = source_of(function)
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:16]


class MissingColumns(ValueError):
    """A reward function takes columns that the prompts do not have.

    Attributes:
        names: of the columns.
    """

    def __init__(self, function: str, names: Sequence[str]):
        super().__init__(function, names)
        self.function, self.names = function, list(names)

    def __str__(self) -> str:
        return f"the reward function {self.function} needs {', '.join(self.names)}, columns that these prompts do not have"


class FunctionReward:
    """Scores of a function that is called as TRL calls reward functions: with keyword arguments ``prompts``, ``completions`` and
    ``completion_ids``, lists of B, and the data set's further columns, of which it gets those that it takes.

    Args:
        function: plain or async; returns B numbers.
        name: of it, for messages.
    """

    differentiable, soft, vocabulary, reads_states = False, False, None, False
    range: tuple[float | None, float | None] = (None, None)

    def __init__(self, function: Callable[..., Any], name: str):
        self.function, self.name = function, name
        parameters = inspect.signature(function).parameters.values()
        self._takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
        self._takes = {p.name for p in parameters}
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        self._needs = {p.name for p in parameters if p.default is inspect.Parameter.empty and p.kind in named}

    def scoped(self, scope: str) -> Reward | None:
        """None: what a function makes of its arguments is its own affair."""
        return None

    def score(self, completions: Completions) -> Tensor:
        """[B] what the function returns.

        Raises:
            ValueError: it fails, or returns something else than B finite numbers; the message names the completion.
        """
        arguments = {
            "prompts": completions.prompt_texts, "completions": completions.texts, "completion_ids": completions.token_ids,
            **completions.columns,
        }  # fmt: skip
        missing = sorted(self._needs - arguments.keys())
        if missing:
            raise MissingColumns(self.name, missing)
        taken = {name: value for name, value in arguments.items() if self._takes_all or name in self._takes}
        return torch.tensor(self._checked(self._call(taken, completions), completions), device=completions.ids.device)

    def _call(self, arguments: dict[str, Any], completions: Completions) -> Any:
        try:
            return self._run(arguments)
        except Exception as error:
            culprit = self._culprit(arguments, completions)
            raise ValueError(f"the reward function {self.name} failed{culprit}: {type(error).__name__}: {error}") from error

    def _run(self, arguments: dict[str, Any]) -> Any:
        found = self.function(**arguments)
        return asyncio.run(_result_of(found)) if inspect.isawaitable(found) else found

    def _culprit(self, arguments: dict[str, Any], completions: Completions) -> str:
        """Which single completion makes it fail, if one does."""
        for row, text in enumerate(completions.texts):
            try:
                self._run({name: value[row : row + 1] for name, value in arguments.items()})
            except Exception:  # noqa: BLE001  whatever it raises, that is the completion
                return f" on the completion {text[:SHOWN]!r}"
        return " on a batch, though on none of its completions alone"

    def _checked(self, found: Any, completions: Completions) -> list[float]:
        """B finite numbers."""
        listed = found.tolist() if hasattr(found, "tolist") else found
        if not isinstance(listed, Sequence) or isinstance(listed, str):
            raise ValueError(f"the reward function {self.name} returned a {type(found).__name__}; it must return a list of numbers")
        if len(listed) != len(completions):
            raise ValueError(f"the reward function {self.name} returned {len(listed)} numbers for {len(completions)} completions")
        for value, text in zip(listed, completions.texts, strict=True):
            if isinstance(value, bool | int | float) and math.isfinite(value):
                continue
            raise ValueError(f"the reward function {self.name} returned {value!r}, no finite number, for the completion {text[:SHOWN]!r}")
        return [float(value) for value in listed]


async def _result_of(awaitable: Any) -> Any:
    return await awaitable


def function_reward(inputs: RewardInputs, *, function: str) -> tuple[FunctionReward, dict[str, Any]]:
    """The reward group's ``function``, and its report.

    Args:
        inputs: what a run gives to rewards; nothing of it is needed.
        function: ``package.module:name``.

    Raises:
        ValueError: there is no such function.
    """
    loaded = load_function(function)
    return FunctionReward(loaded, function), {"function": function}
