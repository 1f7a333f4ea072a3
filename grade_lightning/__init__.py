"""GRADE-Lightning: backpropagate a reward through generated text, and compare it honestly with policy gradients.

``train``, ``Experiment`` and ``Run`` are the Python API; they are imported when they are first asked for.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from grade_lightning.api import Experiment, Run, train

IMPORTED = time.perf_counter()  # before anything slow is imported: a command's wall time counts from here

__version__ = "0.1.0"
__all__ = ["Experiment", "Run", "train"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        from grade_lightning import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
