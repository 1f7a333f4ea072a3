"""Which reward is which, where its settings name a folder or a function."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from grade_lightning.data.rated import contents_fingerprint, read_rows
from grade_lightning.given import fingerprint_of_given
from grade_lightning.models.base import check_model_folder, looks_local
from grade_lightning.models.cache import files_fingerprint
from grade_lightning.rewards.function import load_function, source_fingerprint
from grade_lightning.rewards.sequence_classifier import check_classifier_folder
from grade_lightning.settings.fields import Component, parts_of
from grade_lightning.settings.reward import (
    FunctionSettings,
    GivenSettings,
    LikelihoodSettings,
    PreferenceSettings,
    SequenceClassifierSettings,
)


def fingerprint_of_reward(settings: Any) -> str | None:
    """A short hash of a classifier's files, of the file that a function stands in, of pairs of texts, or of those of a reward's parts;
    None where the settings say all that it is.

    Raises:
        ValueError: there is no such function, folder or file.
    """
    inner = fingerprints_of(parts_of(settings))
    if inner:
        return hashlib.sha256(json.dumps(inner, sort_keys=True).encode()).hexdigest()[:16]
    for kind, fingerprint in _OF_KIND.items():
        if isinstance(settings, kind):
            return fingerprint(settings)
    return None


def _of_classifier(settings: SequenceClassifierSettings) -> str | None:
    if not looks_local(settings.path):
        return None
    check_classifier_folder(settings.path)
    return files_fingerprint(Path(settings.path).expanduser())


_OF_KIND: dict[type, Callable[[Any], str | None]] = {
    FunctionSettings: lambda settings: source_fingerprint(load_function(settings.function)),
    GivenSettings: lambda settings: fingerprint_of_given(settings.name),
    SequenceClassifierSettings: _of_classifier,
    LikelihoodSettings: lambda settings: files_fingerprint(check_model_folder(settings.path)) if looks_local(settings.path) else None,
    PreferenceSettings: lambda settings: contents_fingerprint(
        read_rows(settings.path, settings.objective, split=settings.hub_split, revision=settings.revision)
    ),
}


def fingerprints_of(rewards: Mapping[str, Component]) -> dict[str, str]:
    """Of rewards by name; those whose settings say all are left out."""
    found = {name: fingerprint_of_reward(component.settings) for name, component in rewards.items()}
    return {name: fingerprint for name, fingerprint in found.items() if fingerprint is not None}
