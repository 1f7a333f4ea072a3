"""From Hydra's groups to settings: where the configuration is, how it is composed, and where a value came from."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, Node, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from grade_lightning.records.identity import NOT_IDENTITY, START, run_hash
from grade_lightning.settings import Settings, SettingsError, parse
from grade_lightning.settings.describe import config_folder
from grade_lightning.settings.fields import fields_of
from grade_lightning.settings.problems import Problem
from grade_lightning.settings.types import nested, type_text

log = logging.getLogger(__name__)

CONFIG_DIR = str(config_folder())  # absolute: a path relative to the caller works under `python -m` and fails when `main` is imported


def config_hash(root: DictConfig, *, without: tuple[str, ...] = ()) -> str:
    """:func:`grade_lightning.records.identity.run_hash` of a composed configuration."""
    identity = OmegaConf.masked_copy(root, [str(key) for key in root if key not in (*NOT_IDENTITY, *without)])
    identity._set_parent(root)  # interpolations still see the whole configuration
    start = OmegaConf.select(root, ".".join(START))  # alone: the rest of its group may refer to this very hash
    return run_hash({**_plain(identity), START[0]: {START[1]: start}}, without=without)


def _plain(cfg: DictConfig) -> dict[str, Any]:
    """Resolved values as dictionaries, lists and scalars; a value that must be given reads ``???``.

    Raises:
        ValueError: a reference to a key that does not exist.
    """
    try:
        return OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)  # type: ignore[return-value]
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{key}: {str(error).splitlines()[0]}" if key else str(error).splitlines()[0]) from error


def resolved(cfg: DictConfig) -> dict[str, Any]:
    """All of a run's values, as ``config.yaml`` of a run folder holds them; without Hydra's own."""
    return _plain(_without_hydra(cfg))


def _without_hydra(cfg: DictConfig) -> DictConfig:
    if "hydra" not in cfg:
        return cfg
    kept = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
    kept._set_parent(cfg)
    return kept


def _no_groups(cfg: DictConfig, group: type = Settings, prefix: str = "") -> Iterator[Problem]:
    """Groups of settings that were given a single value: what refers to their keys cannot be resolved."""
    for name, info in fields_of(group).items():
        inner = nested(info.annotation)
        node = cfg._get_node(name, validate_access=False)
        if inner is None or not isinstance(node, Node):
            continue
        if isinstance(node, DictConfig) and not node._is_none():
            yield from _no_groups(node, inner, f"{prefix}{name}.")
        elif not node._is_interpolation() and not (node._is_none() and "null" in type_text(info)):
            yield Problem(f"{prefix}{name}", f"it must be {type_text(info)}", "null" if node._is_none() else str(node._value()))


def settings_of(cfg: DictConfig) -> Settings:
    """The checked settings of a composed configuration.

    Raises:
        SettingsError: naming every value that cannot be used and where it came from.
    """
    try:
        wrong = list(_no_groups(cfg))
        if wrong:
            raise SettingsError(wrong)
        return parse(resolved(cfg))
    except SettingsError as error:
        problems = {(p := _at_source(cfg, problem)).key: p for problem in error.problems}
        origins = _Origins(_task_overrides())
        raise SettingsError(list(problems.values()), origins.of) from None


def _at_source(cfg: DictConfig, problem: Problem) -> Problem:
    """The same problem under the key that the value was written for, where that refers to another one."""
    key = problem.key
    for _ in range(8):  # references of references
        parts, node, moved = key.split("."), cfg, None
        for place, part in enumerate(parts):
            if not isinstance(node, DictConfig) or part not in node:
                break
            child = node._get_node(part)
            raw = child._value() if isinstance(child, Node) else None
            if isinstance(raw, str) and raw.startswith("${") and raw.endswith("}") and ":" not in raw:
                moved = ".".join([raw[2:-1], *parts[place + 1 :]])
                break
            node = child  # type: ignore[assignment]
        if moved is None:
            break
        key = moved
    return Problem(key, problem.reason, problem.shown)


def _task_overrides() -> list[str]:
    return [str(override) for override in HydraConfig.get().overrides.task] if HydraConfig.initialized() else []


class _Origins:
    """Where values come from: the command line, or the last file that sets them.

    Args:
        overrides: of the command.
    """

    def __init__(self, overrides: Sequence[str]):
        self.overrides = overrides

    def of(self, key: str) -> str | None:
        """A place in words; None where it cannot be told."""
        given = {override.split("=", 1)[0].lstrip("+~") for override in self.overrides}
        plain = [name for name in given if "/" not in name and not self._is_group(name)]
        if any(key == name or key.startswith(f"{name}.") or name.startswith(f"{key}.") for name in plain):
            return "command line"
        found = [path for path, package, values in _files(tuple(self.overrides)) if _has(values, package, key)]
        return f"conf/{found[-1]}.yaml" if found else None

    @staticmethod
    def _is_group(name: str) -> bool:
        return Path(CONFIG_DIR, name).is_dir()


@lru_cache(maxsize=8)
def _files(overrides: tuple[str, ...]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(file, package, values) of a composition, in order."""
    if GlobalHydra.instance().is_initialized():
        return _read(GlobalHydra.instance().config_loader(), overrides)
    with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
        return _read(GlobalHydra.instance().config_loader(), overrides)


def _read(loader: ConfigLoader, overrides: tuple[str, ...]) -> list[tuple[str, str, Mapping[str, Any]]]:
    found = []
    for default in loader.compute_defaults_list("config", list(overrides), RunMode.RUN).defaults:
        file = Path(CONFIG_DIR, f"{default.config_path}.yaml")
        if default.config_path and file.exists():
            found.append((default.config_path, default.package or "", yaml.safe_load(file.read_text()) or {}))
    return found


def _has(values: Mapping[str, Any], package: str, key: str) -> bool:
    path = key.split(".")
    prefix = package.split(".") if package and package != "_global_" else []
    if path[: len(prefix)] != prefix:
        return False
    value: Any = values
    for part in path[len(prefix) :]:
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return bool(path[len(prefix) :])


def composed(overrides: Sequence[str]) -> DictConfig:
    """The configuration that ``python -m grade_lightning.run OVERRIDES`` would see.

    Raises:
        ValueError: an override that Hydra refuses.
    """
    cfg = _by_hydra(overrides)
    HydraConfig.instance().set_config(cfg)
    return _without_hydra(cfg)


def composes(overrides: Sequence[str]) -> bool:
    """Whether Hydra takes these overrides together."""
    try:
        _by_hydra(overrides)
    except (OmegaConfBaseException, ValueError):
        return False
    return True


def _by_hydra(overrides: Sequence[str]) -> DictConfig:
    """All values of a command, Hydra's own too, with references; errors as those of :func:`composed`."""
    try:
        with initialize_config_dir(CONFIG_DIR, version_base="1.3"):
            return compose("config", list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ValueError(str(error)) from error


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """An error meant for the user ends the command with its message alone; HYDRA_FULL_ERROR=1 shows where it came from."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise CompactHydraException(str(error)) from error


OmegaConf.register_new_resolver("config_hash", lambda *, _root_: config_hash(_root_), replace=True)
