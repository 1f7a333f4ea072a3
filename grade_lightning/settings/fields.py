"""What settings are made of: typed, documented fields, and components that are named by an import path."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, TypeVar, dataclass_transform

import pydantic
from pydantic import BeforeValidator, ConfigDict, Field, Strict, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass


def _number_as_text(value: Any) -> Any:
    """A folder may be called 2024: YAML reads a number where a text is meant."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


Int = Annotated[int, Strict()]
Float = Annotated[float, Strict()]
Bool = Annotated[bool, Strict()]
Text = Annotated[str, BeforeValidator(_number_as_text), Field(min_length=1)]

_CONFIG = ConfigDict(extra="forbid", allow_inf_nan=False, arbitrary_types_allowed=True)

C = TypeVar("C", bound=type)


def key(doc: str, **options: Any) -> Any:
    """A field of a settings group.

    Args:
        doc: what it decides, with its unit; shown by ``--help`` and in the documentation.
        **options: ``default`` and bounds (``ge``, ``gt``, ``le``, ``lt``, ``min_length``, ...) as :func:`pydantic.Field` takes them.
    """
    return Field(description=doc, **options)


def component(doc: str, **options: Any) -> Any:
    """A field that holds a :class:`Component` (or, in Python, the object itself)."""
    return Field(description=doc, json_schema_extra={"component": True}, **options)


def components(doc: str, **options: Any) -> Any:
    """A field that maps names of the user's choice to components."""
    return Field(description=doc, json_schema_extra={"components": True}, **options)


@dataclass_transform(frozen_default=True, field_specifiers=(key, component))
def settings(cls: C) -> C:
    """Make a group of settings: an immutable dataclass whose values are checked whenever one is made, a fault being named in words."""
    made: Any = pydantic_dataclass(cls, frozen=True, config=_CONFIG)  # type: ignore[call-overload]
    construct = made.__init__

    @functools.wraps(construct)
    def __init__(self: Any, *arguments: Any, **values: Any) -> None:
        try:
            construct(self, *arguments, **values)
        except ValidationError as error:
            from grade_lightning.settings.problems import in_words

            raise in_words(made, {**dict(zip(fields_of(made), arguments, strict=False)), **values}, error) from None

    made.__init__ = __init__
    return made


def fields_of(group: type) -> dict[str, pydantic.fields.FieldInfo]:
    """The fields of a settings group by name; empty for anything else."""
    return getattr(group, "__pydantic_fields__", {})


def _marked(info: pydantic.fields.FieldInfo, mark: str) -> bool:
    extra = info.json_schema_extra
    return isinstance(extra, Mapping) and bool(extra.get(mark))


def is_component(info: pydantic.fields.FieldInfo) -> bool:
    """Whether a field holds a component."""
    return _marked(info, "component")


def are_components(info: pydantic.fields.FieldInfo) -> bool:
    """Whether a field maps names to components."""
    return _marked(info, "components")


@dataclass(frozen=True)
class Component:
    """Something that is built from an import path and settings.

    Attributes:
        target: where it is imported from, ``package.module.Name``.
        settings: a settings group; for code of other packages, the plain values that its signature takes.
        partial: it is a function that gets the rest of its arguments later.
    """

    target: str
    settings: Any = field(default_factory=dict)
    partial: bool = False


def parts_of(group: Any) -> dict[str, Component]:
    """The components inside an instance of a settings group, by field, and those of a mapping by their names."""
    found: dict[str, Component] = {}
    for name, info in fields_of(type(group)).items():
        value = getattr(group, name)
        if is_component(info) and isinstance(value, Component):
            found[name] = value
        elif are_components(info):
            found |= value
    return found
