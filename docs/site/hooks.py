"""What mkdocs adds to the pages of docs/ when it builds the site: nothing here is listed by hand.

The API reference is walked out of the package, the settings page is made from the settings themselves, and the studies, CONTRIBUTING.md and
CHANGELOG.md are read where they stand in the repository, with every file that they link to.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = "grade_lightning"
BORROWED = ("experiments/README.md", "CONTRIBUTING.md", "CHANGELOG.md")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)\s]*)?\)")


def modules() -> list[str]:
    """Dotted names of the package's public modules, packages before what they hold."""
    names = []
    for file in (ROOT / PACKAGE).rglob("*.py"):
        parts = file.relative_to(ROOT).with_suffix("").parts
        parts = parts[:-1] if parts[-1] == "__init__" else parts
        if not any(part.startswith("_") for part in parts):
            names.append(".".join(parts))
    return sorted(names)


def api_page(module: str) -> str:
    """The path of a module's page inside the site."""
    return f"api/{module}.md"


def api_nav() -> list[Any]:
    """Modules of the root first, then each package with its modules."""
    grouped: dict[str, list[str]] = {}
    for name in modules():
        head = name.split(".")[1] if name.count(".") else ""
        grouped.setdefault(head, []).append(name)
    roots = [names[0] for names in grouped.values() if len(names) == 1]
    groups = [{head: [{name.split(".", 1)[1]: api_page(name)} for name in names]} for head, names in grouped.items() if len(names) > 1]
    return ["api/index.md", {"entries and shared modules": [{name: api_page(name)} for name in roots]}, *groups]


def api_index() -> str:
    """A table of all modules."""
    rows = [f"| [`{name}`]({name}.md) |" for name in modules()]
    return "# API reference\n\nEvery public symbol, from the docstrings.\n\n| module |\n|---|\n" + "\n".join(rows) + "\n"


def settings_page() -> str:
    """The table of all keys, from the fields that check them."""
    from grade_lightning.settings import describe

    parts = [
        "# Settings\n\nAll keys, their types and defaults, from the code that checks them. `key=value` on the command line sets one.\n"
    ]
    for group in describe():
        if not group.fields:
            continue
        title = f"{group.name} ({group.option})" if group.option else group.name or "Of no group"
        parts.append(f"## {title}\n\n{group.doc}\n\n| key | type | default | meaning |\n|---|---|---|---|")
        parts += [f"| `{field.key}` | {_cell(field.type)} | `{_cell(field.default)}` | {_cell(field.doc)} |" for field in group.fields]
        parts.append("")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def borrowed() -> list[Path]:
    """The pages read from outside docs/ and all files that they link to, relative to the repository."""
    found: dict[Path, None] = {}
    queue = [ROOT / name for name in BORROWED]
    while queue:
        file = queue.pop(0)
        if not file.is_file() or file.relative_to(ROOT) in found or (ROOT / "docs") in file.parents:
            continue
        found[file.relative_to(ROOT)] = None
        if file.suffix == ".md":
            queue += [(file.parent / link).resolve() for link, _ in LINK.findall(file.read_text()) if "://" not in link]
    return [path for path in found if not (ROOT / path).is_symlink()]


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the API's pages where mkdocs.yml says `api`."""
    config.nav = [{"API reference": api_nav()} if item == "api" else item for item in config.nav or []]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated and the borrowed pages."""
    pages = {"settings.md": settings_page(), "api/index.md": api_index()}
    pages |= {api_page(name): f"# `{name}` {{ #{name} }}\n\n::: {name}\n" for name in modules()}
    for path, text in pages.items():
        files.append(File.generated(config, path, content=text))
    for path in borrowed():
        files.append(File.generated(config, path.as_posix(), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links between docs/ and the rest of the repository, written so that they work in a checkout, become links inside the site."""
    depth = page.file.src_uri.count("/")
    if page.file.src_uri in BORROWED or depth:
        return markdown.replace("](docs/", "](")
    return markdown.replace("](../", "](")
