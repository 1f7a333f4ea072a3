"""Documentation that cannot fall behind: docstrings of all public symbols, links that resolve, a site that builds without a warning."""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "grade_lightning"
DESCRIBED = ("estimators", "chain", "methods", "rollout", "rewards", "data", "evaluation")
MODULES = sorted(file for name in DESCRIBED for file in (PACKAGE / name).rglob("*.py"))
ARGUMENTS = [file for file in MODULES if file.relative_to(PACKAGE).parts[0] != "methods"]
ARGUMENTS += sorted((PACKAGE / "models").rglob("*.py"))
# Methods that a class takes over from Lightning or torch, whose documentation says what they are for.
INHERITED = re.compile(
    r"forward|backward|configure_\w+|on_(?!policy)\w+|(training|validation|test)_step|(train|val|test)_dataloader|setup|(load_)?state_dict"
)
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
GENERATED = {"docs/settings.md", "docs/api/index.md"}  # by docs/site/hooks.py; the build of the site finds them


def public_symbols(node: ast.Module | ast.ClassDef, path: str, overridden: frozenset[str] = frozenset()) -> Iterator[tuple[str, ast.AST]]:
    """Public classes, functions and methods, but those that say the same as what they override."""
    for child in node.body:
        if not isinstance(child, ast.ClassDef | ast.FunctionDef) or child.name.startswith("_"):
            continue
        if isinstance(node, ast.ClassDef) and (INHERITED.fullmatch(child.name) or child.name in overridden):
            continue
        yield f"{path}.{child.name}", child
        if isinstance(child, ast.ClassDef):
            yield from public_symbols(child, f"{path}.{child.name}", documented_by_bases(child))


def documented_by_bases(node: ast.ClassDef) -> frozenset[str]:
    """Names of the documented methods of all bases that the package defines itself."""
    names: set[str] = set()
    for base in node.bases:
        for found in CLASSES.get(getattr(base, "id", getattr(base, "attr", "")), []):
            names |= {m.name for m in found.body if isinstance(m, ast.FunctionDef) and ast.get_docstring(m)} | documented_by_bases(found)
    return frozenset(names)


TREES = {file: ast.parse(file.read_text()) for file in sorted(PACKAGE.rglob("*.py"))}
CLASSES: dict[str, list[ast.ClassDef]] = {}
for tree in TREES.values():
    for item in ast.walk(tree):
        if isinstance(item, ast.ClassDef):
            CLASSES.setdefault(item.name, []).append(item)


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_every_public_symbol_has_a_docstring(file):
    bare = [name for name, node in public_symbols(TREES[file], file.stem) if not ast.get_docstring(node)]
    assert not bare
    assert ast.get_docstring(TREES[file])


def test_a_missing_docstring_is_found():
    source = """
class A:
    '''Documented.'''
    def bare(self): ...
    def _private(self): ...
    def forward(self): ...
def also_bare(): ...
"""
    found = [name for name, node in public_symbols(ast.parse(source), "m") if not ast.get_docstring(node)]
    assert found == ["m.A.bare", "m.also_bare"]


def parameters(node: ast.FunctionDef | ast.ClassDef) -> set[str]:
    """What a docstring may list under Args: of a class, what its __init__ takes; under Attributes of a class, its fields."""
    if isinstance(node, ast.ClassDef):
        fields = {item.target.id for item in node.body if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)}
        made = [parameters(item) for item in node.body if isinstance(item, ast.FunctionDef) and item.name == "__init__"]
        return fields.union(*made)
    listed = node.args
    return {arg.arg for arg in [*listed.posonlyargs, *listed.args, *listed.kwonlyargs, listed.vararg, listed.kwarg] if arg}


def misnamed(node: ast.FunctionDef | ast.ClassDef) -> list[str]:
    """Entries of the Args and Attributes sections that are no single parameter or field."""
    sections = re.findall(r"^(?:Args|Attributes):(.*(?:\n(?: {4}.*|\s*))*)", ast.get_docstring(node) or "", flags=re.MULTILINE)
    entries = [entry for section in sections for entry in re.findall(r"^ {4}(\S.*?)(?::(?:\s|$)|$)|^ (\S.*)", section, flags=re.MULTILINE)]
    return ["".join(entry) for entry in entries if "".join(entry) not in parameters(node)]


@pytest.mark.parametrize("file", ARGUMENTS, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_arguments_stand_one_a_line_under_their_own_names(file):
    symbols = [(item.name, item) for item in ast.walk(TREES[file]) if isinstance(item, ast.ClassDef | ast.FunctionDef)]
    assert {name: found for name, node in symbols if (found := misnamed(node))} == {}


def test_a_misnamed_argument_is_found():
    text = "    a: the first.\n    b, c: two in a line.\n    gone: not there any more,\n        and its second line: fine.\n"
    node = ast.parse(
        f"def f(a, b, c):\n    '''What it does.\n\n    Args:\n{text.replace('    ', '        ')}\n    Returns:\n        x: y.\n    '''\n"
    )
    assert misnamed(node.body[0]) == ["b, c", "gone"]
    assert misnamed(ast.parse("def f(a):\n    '''It.\n\n    Args: as elsewhere.\n    '''\n").body[0]) == ["as elsewhere."]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links, by the rule that GitHub and the site share for plain headings."""
    titles = re.findall(r"^#+\s+(.*)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def broken_links(page: Path) -> list[str]:
    """Links of a page to files or headings that are not there."""
    found = []
    for link in LINK.findall(re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)):
        path, _, anchor = unquote(link).partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link or (target.is_relative_to(ROOT) and str(target.relative_to(ROOT)) in GENERATED):
            continue
        if not target.exists() or not target.is_relative_to(ROOT) or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_internal_links_resolve(page):
    assert broken_links(page) == []


def test_a_broken_link_is_found(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("# A title\n[a](page.md#a-title) [b](page.md#another) [c](missing.md) [d](#a-title) ![e](https://example.org/e.png)\n")
    assert broken_links(page) == ["page.md#another", "missing.md"]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed: pip install -e '.[docs]'")
def test_the_site_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"})
    assert built.returncode == 0, built.stderr[-4000:]
    page = (tmp_path / "site" / "api" / "grade_lightning.estimators.kl.html").read_text()
    assert "grade_lightning.estimators.kl.exact_kl" in page
    settings = (tmp_path / "site" / "settings.html").read_text()
    if importlib.util.find_spec("grade_lightning.settings"):
        assert "rollout.top_k" in settings


INTERVAL = re.compile(r"-?\d+\.\d+ \[-?\d+\.?\d*, -?\d+\.?\d*\]")


def negated(interval: str) -> str:
    """The same of B beyond A, where a record has A beyond B."""
    mean, low, high = re.findall(r"-?\d+\.?\d*", interval)
    other = [number.removeprefix("-") if number.startswith("-") or not float(number) else f"-{number}" for number in (mean, high, low)]
    return f"{other[0]} [{other[1]}, {other[2]}]"


@pytest.mark.parametrize("page", ["README.md", "docs/results.md", "docs/straight-through.md"])
def test_an_interval_that_a_page_quotes_stands_in_a_record(page):
    """A record that changed leaves no number of its former self behind."""
    records = "\n".join(file.read_text() for file in sorted((ROOT / "experiments").rglob("*.md"))).replace("+", "")
    quoted = INTERVAL.findall((ROOT / page).read_text().replace("+", ""))
    assert quoted
    assert [interval for interval in quoted if interval not in records and negated(interval) not in records] == []
