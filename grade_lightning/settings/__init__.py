"""Every setting of a run: typed, documented, checked before anything else is loaded.  Imports neither torch nor Hydra."""

from grade_lightning.settings.describe import describe, help_text
from grade_lightning.settings.fields import Component
from grade_lightning.settings.parse import parse
from grade_lightning.settings.problems import Problem, SettingsError
from grade_lightning.settings.root import Settings

__all__ = ["Component", "Problem", "Settings", "SettingsError", "describe", "help_text", "parse"]
