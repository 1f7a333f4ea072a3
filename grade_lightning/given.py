"""Rewards that Python code gives by name: settings are plain values, and name them."""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
from collections.abc import Callable
from typing import Any

_GIVEN: dict[str, Any] = {}


def give(thing: Any) -> str:
    """Keep a reward that is in memory; returns the name under which settings find it, the same for the same source text and state.

    Args:
        thing: a function of texts, or an object with the interface of :class:`grade_lightning.rewards.base.Reward`.
    """
    own = getattr(thing, "__name__", type(thing).__name__)
    name = f"{own.strip('<>')}-{hashlib.sha256(_said(thing).encode()).hexdigest()[:8]}"
    _GIVEN[name] = thing
    return name


def given(name: str) -> Any:
    """What :func:`give` kept.

    Raises:
        ValueError: this process was given nothing of that name.
    """
    if name not in _GIVEN:
        raise ValueError(
            f"the reward {name} was given from Python in another process, or was another one: give it again (train(...), or "
            "Run(dir, reward=...)); or put the function into a module, which every process can import: reward=function "
            "reward.function=module:name"
        )
    return _GIVEN[name]


def fact_of(name: str, attribute: str) -> bool:
    """Whether what was given has an attribute that is true; False for functions, and for what this process was not given."""
    return bool(getattr(_GIVEN.get(name), attribute, False))


def fingerprint_of_given(name: str) -> str:
    """A short hash of source text and state of what was given.

    Raises:
        ValueError: this process was given nothing of that name.
    """
    return hashlib.sha256(_said(given(name)).encode()).hexdigest()[:16]


def source_of(thing: Any) -> str | None:
    """The source text of a function, or of an object's class; None where there is none."""
    try:
        return inspect.getsource(thing if inspect.isroutine(thing) else type(thing))
    except (OSError, TypeError):
        return None


def _said(thing: Any) -> str:
    """Source text and state: what a closure, a bound object, arguments of a partial or an instance hold, as far as their texts tell."""
    if isinstance(thing, functools.partial):
        return f"{_said(thing.func)} {thing.args!r} {sorted(thing.keywords.items())!r}"
    if inspect.ismethod(thing):
        return f"{_said(thing.__func__)} {_said(thing.__self__)}"
    state: Any = sorted(vars(thing).items()) if hasattr(thing, "__dict__") and not inspect.isroutine(thing) else ()
    if inspect.isfunction(thing):
        cells = [cell.cell_contents for cell in thing.__closure__ or ()]
        state = (thing.__defaults__, sorted((thing.__kwdefaults__ or {}).items()), cells)
    return f"{source_of(thing) or type(thing)!r} {state!r}"


def module_and_name(function: Callable[..., Any]) -> str | None:
    """``module:name`` by which another process imports this very function; None where it cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    if module in (None, "__main__") or "<" in name or not isinstance(name, str):
        return None
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        return None
    return f"{module}:{name}" if found is function else None  # not what a decorator of the same name has made of it
