"""Which reward is which, where its settings name a folder or a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from grade_lightning.models.base import looks_local
from grade_lightning.models.cache import files_fingerprint
from grade_lightning.rewards.function import load_function, source_fingerprint
from grade_lightning.rewards.sequence_classifier import check_classifier_folder
from grade_lightning.settings.fields import Component, parts_of
from grade_lightning.settings.reward import FunctionSettings, SequenceClassifierSettings


def fingerprint_of_reward(settings: Any) -> str | None:
    """A short hash of a classifier's files, of the file that a function stands in, of pairs of texts, or of those of a reward's parts;
    None where the settings say all that it is.

    Raises:
        ValueError: there is no such function, folder or file.
    """
    inner = fingerprints_of(parts_of(settings))
    if inner:
        return hashlib.sha256(json.dumps(inner, sort_keys=True).encode()).hexdigest()[:16]
    if isinstance(settings, FunctionSettings):
        return source_fingerprint(load_function(settings.function))
    if isinstance(settings, SequenceClassifierSettings) and looks_local(settings.path):
        check_classifier_folder(settings.path)
        return files_fingerprint(Path(settings.path).expanduser())
    return None


def fingerprints_of(rewards: Mapping[str, Component]) -> dict[str, str]:
    """Of rewards by name; those whose settings say all are left out."""
    found = {name: fingerprint_of_reward(component.settings) for name, component in rewards.items()}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint is not None}
