"""Which reward is which, where its settings name a folder or a function."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grade_lightning.models.base import looks_local
from grade_lightning.models.cache import files_fingerprint
from grade_lightning.rewards.function import load_function, source_fingerprint
from grade_lightning.rewards.sequence_classifier import check_classifier_folder
from grade_lightning.settings.reward import FunctionSettings, SequenceClassifierSettings


def fingerprint_of_reward(settings: Any) -> str | None:
    """A short hash of a classifier's files or of the file that a function stands in; None where the settings say all that it is.

    Raises:
        ValueError: there is no such function or folder.
    """
    if isinstance(settings, FunctionSettings):
        return source_fingerprint(load_function(settings.function))
    if isinstance(settings, SequenceClassifierSettings) and looks_local(settings.path):
        check_classifier_folder(settings.path)
        return files_fingerprint(Path(settings.path).expanduser())
    return None
