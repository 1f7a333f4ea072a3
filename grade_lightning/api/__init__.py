"""The Python API: :func:`train`, :class:`Experiment` and :class:`Run`."""

from grade_lightning.api.experiment import Experiment, train
from grade_lightning.api.run import Generations, Run

__all__ = ["Experiment", "Generations", "Run", "train"]
