"""A finished run in Python: what it measured, what it writes, and what can be taken away."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grade_lightning.given import give
from grade_lightning.records.from_folder import metric_columns

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROWS = (
    ("reward", "reward_mean"), ("KL, nats per token", "kl_mean"), ("KL, nats per completion", "kl_sequence_mean"),
    ("distinct-2", "distinct_2"), ("length, tokens", "length_mean"),
)  # fmt: skip


class Run:
    """A run folder.

    Args:
        dir: of a finished run.
        reward: what the run was given from Python, if it was: other calls may have given other rewards since.
        trust: code from outside this package that the run's configuration names may be imported; so it is for a run that was just made.

    Raises:
        ValueError: the folder holds no finished run.
    """

    def __init__(self, dir: str | Path, *, reward: Any = None, trust: bool = False):
        self.dir, self._reward, self._trust = Path(dir), reward, trust
        if not (self.dir / "results.json").exists():
            raise ValueError(f"{self.dir} holds no finished run: it has no results.json")

    @cached_property
    def results(self) -> dict[str, Any]:
        """What ``results.json`` holds."""
        return json.loads((self.dir / "results.json").read_text())

    @cached_property
    def _columns(self) -> dict[str, list[float | None]]:
        return metric_columns((self.dir / "metrics.csv").read_text())

    @cached_property
    def metrics(self) -> list[dict[str, float]]:
        """A row a policy step of ``metrics.csv``, without blank cells."""
        rows = zip(*self._columns.values(), strict=True)
        return [{name: cell for name, cell in zip(self._columns, row, strict=True) if cell is not None} for row in rows]

    def generate(
        self, prompts: str | Mapping[str, Any] | Sequence[str | Mapping[str, Any]], *, samples: int = 1, seed: int = 0,
        checkpoint: str = "last", judges: bool = False,
    ) -> Generations:  # fmt: skip
        """Continuations before and after training, the same noise for both.

        Args:
            prompts: a text, or several; rows with ``prompt`` where the reward is told more of each.
            samples: of each prompt.
            seed: of the noise.
            checkpoint: ``last`` or ``best``.
            judges: what the run's judges think too, which may have to be trained first.
        """
        from grade_lightning.generate import Request, generate
        from grade_lightning.training.process import prepare_process

        if self._reward is not None and not isinstance(self._reward, str | Path):
            give(self._reward)
        prepare_process()
        given: Sequence[Any] = [prompts] if isinstance(prompts, str | Mapping) else prompts
        rows = [dict(row) if isinstance(row, Mapping) else {"prompt": row} for row in given]
        texts = [row.pop("prompt", None) for row in rows]
        request = Request(self.dir, texts, samples, seed, checkpoint, judges=judges, trust=self._trust, columns=rows)
        return Generations(generate(request))

    def report(self, out: str | Path | None = None) -> Path:
        """Write the report of this run; returns its page.

        Args:
            out: folder; None = ``report`` in the run folder.
        """
        from grade_lightning.reporting.output import report

        folder = self.dir / "report" if out is None else Path(out)
        report(self.dir, folder)
        return folder / "report.html"

    def export(self, out: str | Path, **options: Any) -> Path:
        """Take the adapter away, or the merged weights; ``options`` as those of :func:`grade_lightning.export.export`."""
        from grade_lightning.export import export

        return export(self.dir, Path(out), **{"trust": self._trust, **options})

    def merge(self, out: str | Path, **options: Any) -> Path:
        """A whole model, the adapter merged into its base, that plain transformers loads; ``options`` as those of :meth:`export`."""
        return self.export(out, merge=True, **options)

    def plot(self) -> Figure:
        """Reward and KL of every policy step, and of the validations."""
        from grade_lightning.reporting.curves import NotebookFigure, training_curves

        return training_curves(self._columns, self.results["validation"], NotebookFigure)

    def __repr__(self) -> str:
        test = self.results.get("test")
        said = f": test reward {self.results['initial']['reward_mean']:.3f} -> {test['reward_mean']:.3f}" if test else ""
        return f"Run({str(self.dir)!r}, {self.results['method']}, {self.results['steps']} steps{said})"

    def _repr_html_(self) -> str:
        if "test" not in self.results:
            return f"<p>{html.escape(repr(self))}</p>"
        before, after = self.results["initial"], self.results["test"]
        rows = [(title, f"{before[key]:.3f}", f"{after[key]:.3f}") for title, key in _ROWS if key in after]
        return _table(f"{self.results['method']}, {self.results['steps']} policy steps", ("test", "before", "after"), rows)


class Generations(list[dict[str, dict[str, Any]]]):
    """For each prompt and sample what was measured of the continuations ``before`` and ``after``, and their texts."""

    def _repr_html_(self) -> str:
        rows = []
        for pair in self:
            texts = [f"{pair[when]['completion']} [{pair[when]['reward']:.2f}]" for when in ("before", "after")]
            rows.append((str(pair["before"]["prompt"]), *texts))
        return _table("", ("prompt", "before", "after"), rows)


def _table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table; every text is escaped."""

    def line(cells: Sequence[str], kind: str) -> str:
        return "<tr>" + "".join(f'<{kind} style="text-align:left">{html.escape(cell)}</{kind}>' for cell in cells) + "</tr>"

    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    return f"<table>{caption}{line(header, 'th')}{''.join(line(row, 'td') for row in rows)}</table>"
