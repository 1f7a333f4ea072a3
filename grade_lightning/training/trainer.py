"""From the group ``trainer`` to arguments of Lightning's trainer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.profilers import AdvancedProfiler, PyTorchProfiler, SimpleProfiler

from grade_lightning.settings.fields import Component, fields_of
from grade_lightning.settings.parse import locate
from grade_lightning.settings.problems import refuse
from grade_lightning.settings.tracking import TrainerSettings

_PROFILERS: dict[str, Any] = {"simple": SimpleProfiler, "advanced": AdvancedProfiler, "pytorch": PyTorchProfiler}


def trainer_class(component: Component) -> type[L.Trainer]:
    """The class that the group names.

    Raises:
        ValueError: it is none of Lightning's trainers, or is given a flag that is ours to decide.
    """
    found = locate(component.target)
    if not (isinstance(found, type) and issubclass(found, L.Trainer)):
        refuse("trainer._target_", f"{component.target} is no subclass of lightning.Trainer")
    for name in component.settings if isinstance(component.settings, dict) else ():
        if name in TrainerSettings.REFUSED:
            refuse(f"trainer.{name}", TrainerSettings.REFUSED[name])
    return found


def trainer_flags(component: Component, folder: Path) -> dict[str, Any]:
    """Arguments of the trainer; those that are null are left to Lightning.

    Args:
        component: the group ``trainer``.
        folder: of the run, where a profiler writes ``fit-profile.txt`` and the like.
    """
    given = component.settings
    values = dict(given) if isinstance(given, dict) else {name: getattr(given, name) for name in fields_of(type(given))}
    flags = {name: value for name, value in values.items() if value is not None}
    if flags.get("profiler") in _PROFILERS:
        flags["profiler"] = _PROFILERS[flags["profiler"]](dirpath=folder, filename="profile")
    return flags
