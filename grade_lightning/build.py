"""From components, which are import paths and settings, to the objects that they name."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

from grade_lightning.methods.base import Context, Method
from grade_lightning.settings.fields import Component, are_components, fields_of, is_component
from grade_lightning.settings.parse import locate
from grade_lightning.training.module import BoundModule, MethodModule, Plan


def made(settings: Any, *arguments: Any) -> Any:
    """The same settings with every component in them built from these arguments."""
    inner: dict[str, Any] = {}
    for name, info in fields_of(type(settings)).items():
        value = getattr(settings, name)
        if is_component(info) and isinstance(value, Component):
            inner[name] = build(value, *arguments)
        elif are_components(info):
            inner[name] = {inside: build(component, *arguments) for inside, component in value.items()}
    return dataclasses.replace(settings, **inner) if inner else settings


def _values(settings: Any) -> dict[str, Any]:
    if isinstance(settings, dict):
        return settings
    return {name: getattr(settings, name) for name in fields_of(type(settings))}


def build(component: Component, *arguments: Any, **more: Any) -> Any:
    """Call what a component names with its settings; where it is partial, the function that waits for the rest.

    Args:
        component: an import path and settings.
        *arguments: of the callee, and of the components in its settings.
        **more: of the callee.

    Raises:
        ValueError: what the callee raises for a user, or an import path with nothing behind it.
    """
    thing, values = locate(component.target), _values(made(component.settings, *arguments))
    return partial(thing, **values) if component.partial else thing(*arguments, **values, **more)


def build_method(component: Component, context: Context) -> Method:
    """The plain method that a component names.

    Raises:
        ValueError: it is no method.
    """
    thing = locate(component.target)
    plain = thing.Gradient if isinstance(thing, type) and issubclass(thing, BoundModule) else thing
    if not (isinstance(plain, type) and issubclass(plain, Method)):
        raise ValueError(f"method._target_={component.target} is no method: name a subclass of grade_lightning.methods.Method")
    return plain(context, made(component.settings))


def build_module(component: Component, context: Context, plan: Plan) -> MethodModule:
    """The LightningModule of the method that a component names: one of :mod:`grade_lightning.methods`, or a plain method.

    Raises:
        ValueError: it is no method.
    """
    thing = locate(component.target)
    if isinstance(thing, type) and issubclass(thing, BoundModule):
        return thing(context, plan, made(component.settings))
    return MethodModule(build_method(component, context), plan)
