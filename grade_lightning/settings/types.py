"""Field types in words."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import Discriminator
from pydantic.fields import FieldInfo

from grade_lightning.settings.fields import fields_of

_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def _members(annotation: Any) -> tuple[Any, ...]:
    """The members of a union; the annotation itself where it is none."""
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def groups_in(annotation: Any) -> list[type]:
    """The settings groups that a field may hold; the first is the usual one."""
    plain = [get_args(member)[0] if get_origin(member) is Annotated else member for member in _members(annotation)]
    return [member for member in plain if isinstance(member, type) and fields_of(member)]


def nested(annotation: Any) -> type | None:
    """The settings group that a field holds, if it holds one; of several the usual one."""
    return next(iter(groups_in(annotation)), None)


def group_of(info: FieldInfo, value: Any) -> type | None:
    """The settings group that a field holds, if it holds one; of several the one that a value is meant for."""
    for item in info.metadata:
        if isinstance(item, Discriminator) and callable(item.discriminator):
            chosen = item.discriminator(value)
            return next(group for group in groups_in(info.annotation) if group.__name__ == chosen)
    return nested(info.annotation)


def _plain(annotation: Any) -> tuple[str, list[Any]]:
    """Words for a type, and the bounds that are part of it."""
    if get_origin(annotation) is Annotated:
        inner, *metadata = get_args(annotation)
        words, bounds = _plain(inner)
        return words, [*bounds, *metadata]
    if get_origin(annotation) is Literal:
        return "one of " + ", ".join(map(str, get_args(annotation))), []
    if get_origin(annotation) is list:
        words, bounds = _plain(get_args(annotation)[0])
        return f"a list, each {words}{_bounds(bounds)}", []
    if isinstance(annotation, type) and fields_of(annotation):
        return f"a group ({', '.join(fields_of(annotation))})", []
    return _NAMES.get(annotation, "a component"), []


def _bounds(metadata: list[Any]) -> str:
    """Limits in words: ", at least 1 and at most 9"; "" without any."""
    names = ("ge", "gt", "le", "lt", "pattern", "min_length", "max_length")
    parts = [part for item in metadata for part in (item.metadata if isinstance(item, FieldInfo) else [item])]
    found = {name: value for part in parts for name in names if (value := getattr(part, name, None)) is not None}
    low = f"at least {found['ge']:,g}" if "ge" in found else f"above {found['gt']:,g}" if "gt" in found else ""
    high = f"at most {found['le']:,.10g}" if "le" in found else f"below {found['lt']:,g}" if "lt" in found else ""
    if low or high:
        return ", " + " and ".join(part for part in (low, high) if part)
    return " of letters, digits, dots, dashes and underscores" if "pattern" in found else ""


def _length(metadata: list[Any]) -> str:
    """Limits of a list's length in words."""
    low, high = ([value for item in metadata if (value := getattr(item, name, None)) is not None] for name in ("min_length", "max_length"))
    if low and high and low == high:
        return f" of {low[0]}"
    return " that is not empty" if low else ""


def type_text(info: FieldInfo) -> str:
    """What a field allows, in words: "a whole number, at least 1, or null"."""
    members = _members(info.annotation)
    kinds = [member for member in members if member is not type(None)]
    texts = []
    for kind in kinds:
        words, own = _plain(kind)
        if get_origin(kind) is list:
            texts.append(words.replace("a list", f"a list{_length(info.metadata)}", 1))
        else:
            texts.append(words.replace("a number", "a finite number") + _bounds([*own, *info.metadata]))
    text = " or ".join(texts)
    return f"{text}, or null" if type(None) in members else text
