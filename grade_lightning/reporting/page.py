"""One self-contained page with everything: no network, no other file, and complete with scripts off."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import matplotlib
from jinja2 import Environment, FunctionLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from grade_lightning.reporting.differences import FACTS, different_settings
from grade_lightning.reporting.drawing import STYLE, inline_svg
from grade_lightning.reporting.facts import environments
from grade_lightning.reporting.hover import targets
from grade_lightning.reporting.marks import shade, swatch
from grade_lightning.reporting.prompts import rewards_by_prompt, scatter
from grade_lightning.reporting.samples import by_prompt, clip, samples, span
from grade_lightning.reporting.table import Table
from grade_lightning.reporting.variants import Variant, looks_of

LARGEST = 3_000_000  # bytes of a page
_SHARES = (1.0, 0.5, 0.25, 0.1, 0.02)  # of what follows, tried until the page is small enough
_NUMBERS, _PROMPTS, _CARDS, _ROWS, _WARNINGS, _SVG = 150_000, 40, 400, 300, 300, 400_000


def _template(name: str) -> str:
    return files("grade_lightning.reporting").joinpath("templates", name).read_text()


def page(
    variants: list[Variant], tables: list[Table], figures: dict[str, tuple[str, Figure]], warnings: list[str], *,
    sentences: Sequence[str] = (), name: str, source: str = "",
) -> str:  # fmt: skip
    """The page as text, of at most ``LARGEST`` bytes: what is too much for it is cut, and said to be.

    Args:
        sentences: the answer in words.
        name: of what was reported on; source: where it came from.
    """
    svgs = {key: inline_svg(figure, key) for key, (_, figure) in figures.items()}
    points = {key: targets(figure) for key, (_, figure) in figures.items()}
    text, picture = "", cache(lambda key: _picture(figures[key][1]))
    for share in _SHARES:
        drawn = [
            (key, title, Markup(svgs[key]) if len(svgs[key]) <= _SVG * share else picture(key))  # noqa: S704  our own drawing
            for key, (title, _) in figures.items()
        ]
        data = {
            "runs": rewards_by_prompt(variants, int(_NUMBERS * share)),
            "figures": {key: found for key, found in points.items() if len(svgs[key]) <= _SVG * share},
        }
        text = _rendered(variants, tables, drawn, warnings, data, share=share, name=name, source=source, sentences=sentences)
        if len(text.encode()) <= LARGEST:
            break
    return text


def _rendered(
    variants: list[Variant], tables: list[Table], drawn: list[tuple[str, str, Markup]], warnings: list[str], data: dict[str, Any],
    *, share: float, **words: Any,
) -> str:  # fmt: skip
    style, script = _template("style.css"), _template("script.js")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, loader=FunctionLoader(_template)
    )
    look, places = looks_of(variants), {variant.label: place for place, variant in enumerate(variants)}
    groups, prompts = by_prompt(samples(variants), max(1, int(_PROMPTS * share)), max(1, int(_CARDS * share)))
    low, high = span(variants)
    rows = max(20, int(_ROWS * share))
    # A variant's runs differ in their seed alone, so the first one stands for all.
    differences = {key: [clip(v, 120) for v in found] for key, found in different_settings([v.runs[0] for v in variants]).items()}
    return environment.get_template("page.html").render(
        **words, variants=variants, tables=tables, rows=rows, frontiers=[f for f in drawn if f[0].startswith("frontier")],
        figures=[f for f in drawn if not f[0].startswith("frontier")], warnings=[clip(w, 1000) for w in warnings[: int(_WARNINGS * share)]],
        all_warnings=len(warnings), swatches=[swatch(look[variant.label]) for variant in variants],
        row_places=lambda row: " ".join(str(places[row[key]]) for key in ("method", "first", "second") if row.get(key) in places),
        groups=groups, prompts=prompts, shade=lambda reward: shade(reward, low, high), low=low, high=high,
        differences=dict(list(differences.items())[:rows]), environments=environments(variants)[: max(1, int(20 * share))],
        runs=sum(len(variant.runs) for variant in variants), described=_described(variants), plot=scatter(data["runs"]),
        chosen=data["runs"]["runs"], data=_script_safe(data), style=Markup(style), script=Markup(script),  # noqa: S704  our own files
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )  # fmt: skip


def _described(variants: list[Variant]) -> str:
    """Protocol, model, data and steps, each with its few values."""
    runs = [run for variant in variants for run in variant.runs]
    said = []
    for fact in FACTS:
        key = "model_name" if fact == "model" and all(run.results.get("model_name") for run in runs) else fact
        values = sorted({clip(str(run.results[key]), 60) for run in runs if run.results.get(key) is not None})
        if values:
            said.append(f"{fact} {', '.join(values[:4])}{' and others' if len(values) > 4 else ''}")
    return "; ".join(said)


def _picture(figure: Figure) -> Markup:
    """A figure of too many lines for an SVG, as a PNG inside the page."""
    stream = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(stream, format="png", dpi=80, facecolor="white")
    return Markup('<img alt="" src="data:image/png;base64,{}">').format(base64.b64encode(stream.getvalue()).decode())


def _script_safe(value: Any) -> Markup:
    """JSON for inside a script element: nothing in it can end the element."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704  every character that markup could be made of was escaped
