"""Rewards that a Python session gives by name: settings are plain values, and name them."""

from __future__ import annotations

import hashlib
import inspect
from collections.abc import Callable
from typing import Any

_GIVEN: dict[str, Any] = {}


def give(thing: Any) -> str:
    """Keep a reward of this session; returns the name under which settings find it, the same for the same source text.

    Args:
        thing: a function of texts, or an object with the interface of :class:`grade_lightning.rewards.base.Reward`.
    """
    own = getattr(thing, "__name__", type(thing).__name__)
    name = f"{own.strip('<>')}-{hashlib.sha256((source_of(thing) or repr(type(thing))).encode()).hexdigest()[:8]}"
    _GIVEN[name] = thing
    return name


def given(name: str) -> Any:
    """What :func:`give` kept.

    Raises:
        ValueError: this process was given nothing of that name.
    """
    if name not in _GIVEN:
        raise ValueError(
            f"reward.name={name} was given from Python in another process: use the Python API here too, or put the function into a module "
            "and name it by reward=function reward.function=module:name"
        )
    return _GIVEN[name]


def fact_of(name: str, attribute: str) -> bool:
    """Whether what was given has an attribute that is true; False for functions, and for what this process was not given."""
    return bool(getattr(_GIVEN.get(name), attribute, False))


def source_of(thing: Any) -> str | None:
    """The source text of a function, or of an object's class; None where there is none."""
    try:
        return inspect.getsource(thing if inspect.isroutine(thing) else type(thing))
    except (OSError, TypeError):
        return None


def module_and_name(function: Callable[..., Any]) -> str | None:
    """``module:name`` by which another process can import a function; None where it cannot."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", "<")
    return None if module in (None, "__main__") or "<" in name else f"{module}:{name}"
