"""Docstrings name other symbols by Sphinx roles, as Python's own do; the site shows them as links."""

from __future__ import annotations

import re
from typing import Any

from griffe import Extension, Object

ROLE = re.compile(r":(?:func|class|meth|mod|attr|data):`~?([^`]+)`")


def as_link(target: str, scope: Object) -> str:
    """A link where the symbol is found from this scope, else its name."""
    name = target.lstrip(".").rsplit(".", 1)[-1]
    if name.startswith("_"):
        return f"`{name}`"
    if target.startswith("grade_lightning."):
        return f"[`{name}`]({target}.md)" if is_module(target, scope) else f"[`{name}`][{target}]"  # each module has a page here
    owner: Object | None = scope
    while owner is not None:
        if target in owner.members:
            found = owner.members[target]
            return f"[`{name}`][{found.target_path if found.is_alias else found.path}]"
        owner = owner.parent
    return f"`{target.lstrip('.')}`"


def is_module(target: str, scope: Object) -> bool:
    """Whether the dotted name is a module of the package."""
    node: Object = scope.package
    for part in target.split(".")[1:]:
        if part not in node.members:
            return False
        node = node.members[part]
    return node.is_module


class Roles(Extension):
    """Rewrites the docstrings of everything that griffe has loaded."""

    def on_package(self, *, pkg: Object, **kwargs: Any) -> None:
        self._visit(pkg)

    def _visit(self, node: Any) -> None:
        if node.docstring:
            node.docstring.value = ROLE.sub(lambda match: as_link(match[1], node), node.docstring.value)
        for member in node.members.values():
            if not member.is_alias:
                self._visit(member)
