"""What the tests of whole runs share."""

import pytest

from grade_lightning.models.cache import cache_root
from tests.conftest import caching_in
from tests.entry import run_small


@pytest.fixture(scope="package", autouse=True)
def cache(shared_cache):
    with caching_in(shared_cache):
        yield


@pytest.fixture(scope="package")
def finished(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("runs") / "first"
    return folder, run_small(folder, "evaluation.validate_every=1")


@pytest.fixture(scope="package")
def small_lm(finished):
    """The base LM that the small run pretrained, as a local model folder."""
    (folder,) = (path for path in (cache_root() / "base-lm").iterdir() if path.is_dir())
    return folder
