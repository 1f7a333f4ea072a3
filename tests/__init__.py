"""The package's shape annotations are checked while its tests run: jaxtyping's import hook has beartype read them.

The hook stands here because pytest imports this file before ``conftest.py`` and so before the package.  With it, every call of a
function of ``estimators`` and ``chain``, from whatever test, has the shapes and types of its arguments and result compared.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from beartype import BeartypeConf, beartype
from jaxtyping import config, install_import_hook

CHECKED = ("grade_lightning.estimators", "grade_lightning.chain")
CONF = BeartypeConf(is_pep484_tower=True)  # an int is a float, as PEP 484 has it: tau=1


def check(decorated: Callable[..., Any]) -> Callable[..., Any]:
    """Have beartype read the annotations, all but protocols: a test's own reward needs no more than what the call uses."""
    for name, hint in getattr(decorated, "__annotations__", {}).items():
        if getattr(hint, "_is_protocol", False):
            decorated.__annotations__[name] = object
    return beartype(decorated, conf=CONF)


@contextmanager
def unchecked_shapes() -> Iterator[None]:
    """Annotations are not checked inside: users have no type checker, and the package's own ValueError is what they must meet."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


assert not [name for name in CHECKED if name in sys.modules], "the package was imported before its annotations could be checked"
install_import_hook(CHECKED, "tests.check")
