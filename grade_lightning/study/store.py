"""Units on disk: memory does not grow with the sample, and an interrupted study goes on where it was."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.lib.format import open_memmap

from grade_lightning.records.files import write_atomically
from grade_lightning.study.moments import Units
from grade_lightning.study.sketch import CountSketch
from grade_lightning.study.units import Unit

_COLUMNS = ("squares", "tensor_spread", "tokens", "seconds", "reward")


class UnitStore:
    """P x M units of one estimator in a folder.

    Args:
        folder: of this estimator. prompts, draws: P and M. sketch: of its gradients.
        settings: whatever decides what the units are; a folder with other settings is refused.

    Raises:
        ValueError: the folder holds units of other settings.
    """

    def __init__(self, folder: Path, *, prompts: int, draws: int, sketch: CountSketch, settings: dict[str, Any]):
        self.folder, self.draws, self._sketch = folder, draws, sketch
        self._state = folder / "progress.json"
        expected = json.loads(json.dumps({**settings, "prompts": prompts, "draws": draws, "sketch": sketch.size}))
        if self._state.exists():
            state = json.loads(self._state.read_text())
            if state["settings"] != expected:
                raise ValueError(f"{folder} holds gradients of other settings: choose another out= or remove it")
            self.done, self._rows = int(state["done"]), state["rows"]
            self._units = open_memmap(folder / "sketches.npy", mode="r+")
        else:
            folder.mkdir(parents=True, exist_ok=True)
            self.done, self._rows = 0, []
            self._units = open_memmap(folder / "sketches.npy", mode="w+", dtype=np.float32, shape=(prompts, draws, sketch.size))
        self._settings = expected

    def add(self, units: list[Unit]) -> None:
        """The M units of the next prompt."""
        assert len(units) == self.draws
        for draw, unit in enumerate(units):
            self._units[self.done, draw] = self._sketch(unit.gradient).numpy()
        self._units.flush()
        squares = [float(unit.gradient.double().square().sum()) for unit in units]
        rest = [[getattr(unit, name) for unit in units] for name in _COLUMNS[1:]]
        self._rows.append(dict(zip(_COLUMNS, [squares, *rest], strict=True)))
        self.done += 1
        write_atomically(self._state, json.dumps({"settings": self._settings, "done": self.done, "rows": self._rows}))

    def column(self, name: str) -> np.ndarray:
        """[P, M] of ``squares``, ``tensor_spread``, ``tokens``, ``seconds`` or ``reward``."""
        return np.asarray([row[name] for row in self._rows])

    def units(self, rollouts: int, per_prompt: int) -> Units:
        """What the statistics need; ``rollouts`` in a unit, ``per_prompt`` of the same prompt in a batch of the method."""
        # The median: a unit that was held up by another program says nothing about the method.
        seconds = float(np.median(self.column("seconds")))
        return Units(
            np.asarray(self._units[: self.done]), self.column("squares"), rollouts, float(self.column("tokens").mean()), seconds, per_prompt
        )
