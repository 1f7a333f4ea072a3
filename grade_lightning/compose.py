"""What the entries share about configuration: where it is, and the hash that identifies it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hydra.errors import CompactHydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from grade_lightning.records.identity import NOT_IDENTITY, run_hash

_PACKAGE = Path(__file__).resolve().parent
# The package's own copy in an installed wheel, the checkout's folder otherwise.  Absolute, because a path relative to the
# caller works under `python -m` and fails when `main` is imported.
CONFIG_DIR = str(_PACKAGE / "conf" if (_PACKAGE / "conf").is_dir() else _PACKAGE.parent / "conf")


def config_hash(root: DictConfig, *, without: tuple[str, ...] = ()) -> str:
    """:func:`grade_lightning.records.identity.run_hash` of a composed configuration."""
    identity = OmegaConf.masked_copy(root, [str(key) for key in root if key not in (*NOT_IDENTITY, *without)])
    identity._set_parent(root)  # interpolations still see the whole configuration
    resolved: Any = OmegaConf.to_container(identity, resolve=True, throw_on_missing=False)
    return run_hash(resolved, without=without)


def build(node: DictConfig, *args: Any, **kwargs: Any) -> Any:
    """``hydra.utils.instantiate``, with a user's error as it was raised rather than wrapped."""
    try:
        return instantiate(node, *args, **kwargs)
    except InstantiationException as error:
        if isinstance(error.__cause__, ValueError):
            raise error.__cause__ from None
        raise


@contextmanager
def errors_as_messages() -> Iterator[None]:
    """An error meant for the user ends the command with its message alone; HYDRA_FULL_ERROR=1 shows where it came from."""
    try:
        yield
    except (ValueError, FloatingPointError) as error:
        raise CompactHydraException(str(error)) from error


OmegaConf.register_new_resolver("config_hash", lambda *, _root_: config_hash(_root_), replace=True)
