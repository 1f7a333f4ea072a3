"""From settings to callbacks and guarded loggers."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from lightning.pytorch import callbacks as of_lightning
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger

from grade_lightning.build import build
from grade_lightning.settings.fields import Component, fields_of
from grade_lightning.settings.parse import locate
from grade_lightning.settings.problems import refuse
from grade_lightning.settings.tracking import LOGGERS
from grade_lightning.tracking.guard import Guard, say_lost
from grade_lightning.tracking.makers import RunFacts

# Module that a logger needs -> the extra that installs it.
_NEEDS = {"tensorboard_logger": "tensorboard", "mlflow_logger": "mlflow"}
_MANUAL = "the optimisation is manual, and this callback changes what Lightning's own would do: "
_REFUSED: dict[type[Callback], str] = {
    of_lightning.GradientAccumulationScheduler: f"{_MANUAL}use hardware.grad_accumulation",
    of_lightning.BatchSizeFinder: f"{_MANUAL}use hardware.grad_accumulation",
    of_lightning.LearningRateFinder: f"{_MANUAL}use hparams_search=lr",
    of_lightning.StochasticWeightAveraging: f"{_MANUAL}it has no counterpart here",
}


def check_callbacks(callbacks: Mapping[str, Callback]) -> None:
    """Raise ValueError for what is no callback, and for callbacks that cannot work here."""
    for name, callback in callbacks.items():
        if not isinstance(callback, Callback):
            refuse(f"callbacks.{name}", f"{type(callback).__name__} is no Lightning callback")
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                refuse(f"callbacks.{name}", reason)


def made_callbacks(components: Mapping[str, Component], others: Sequence[Callback] = ()) -> list[Callback]:
    """The callbacks of the settings, and others that were handed over.

    Raises:
        ValueError: one of them is none, refuses its arguments, or cannot work here.
    """
    made: dict[str, Callback] = {}
    for name, component in components.items():
        try:
            made[name] = build(component)
        except Exception as error:  # noqa: BLE001  a constructor of somebody else's may raise anything: it is said before any work
            refuse(f"callbacks.{name}", f"it cannot be made ({type(error).__name__}: {error})")
    named = {**made, **{f"[{place}]": callback for place, callback in enumerate(others)}}
    check_callbacks(named)
    return list(named.values())


def check_loggers(components: Mapping[str, Component], others: Sequence[Logger] = ()) -> None:
    """Raise ValueError for what is no logger, and for loggers whose package is not installed."""
    for name, component in components.items():
        maker = component.target.rpartition(".")[2]
        package = _NEEDS.get(maker) if component.target in LOGGERS else None
        if package is not None and importlib.util.find_spec(package) is None:
            refuse(f"logger.{name}", f"it needs {package}: pip install 'grade-lightning[{package}]'")
        thing = locate(component.target)
        if component.target not in LOGGERS and isinstance(thing, type) and not issubclass(thing, Logger):
            refuse(f"logger.{name}._target_", f"{component.target} is no Lightning logger")
    for place, logger in enumerate(others):
        if not isinstance(logger, Logger):
            refuse(f"loggers[{place}]", f"{type(logger).__name__} is no Lightning logger")


def made_loggers(components: Mapping[str, Component], others: Sequence[Logger], facts: RunFacts) -> list[Guard]:
    """The loggers of the settings, and others that were handed over, guarded; one that cannot be made is left out."""
    found = []
    for name, component in components.items():
        try:
            found.append(Guard(name, build(component, facts) if component.target in LOGGERS else build(component)))
        except Exception as error:  # noqa: BLE001  whatever a server, a disk or a library of others comes up with
            say_lost(name, error)
    return found + [Guard(f"[{place}] {type(logger).__name__}", logger) for place, logger in enumerate(others)]


def keeps_adapter(components: Mapping[str, Component]) -> dict[str, bool]:
    """By the logger's name, whether it is given the adapter at the end."""
    return {
        name: component.settings.log_adapter
        for name, component in components.items()
        if "log_adapter" in fields_of(type(component.settings))
    }
