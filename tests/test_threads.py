"""The policy by which threads wait: what OpenMP's runtime itself says that it took over."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from grade_lightning.threads import SPINS


def started(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A process of its own: the runtime reads its settings once.  OMP_DISPLAY_ENV makes it print what it read."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("OMP_", "GOMP_", "KMP_"))}
    return subprocess.run(
        [sys.executable, "-c", code], env={**clean, **environment}, capture_output=True, text=True, timeout=300, check=True
    )


def shown(code: str, **environment: str) -> str:
    """How often a waiting thread of GNU's runtime looks before it sleeps: what it makes of the policy, whose default it calls passive."""
    lines = started(code, OMP_DISPLAY_ENV="VERBOSE", **environment).stderr.splitlines()
    found = [line.split("'")[1] for line in lines if "GOMP_SPINCOUNT" in line]
    if not found:
        pytest.skip("this torch brings no GNU OpenMP runtime")
    return found[0]


CALL = "from grade_lightning.threads import wait_briefly; print(wait_briefly()); import torch"


def test_the_runtime_takes_it_over():
    """And would not have chosen it."""
    assert shown(CALL) == SPINS
    assert shown("import torch") != SPINS


def test_a_users_own_policy_wins():
    assert shown(CALL, OMP_WAIT_POLICY="active") != SPINS
    assert shown(CALL, OMP_WAIT_POLICY="passive") == "0"
    assert shown(CALL, GOMP_SPINCOUNT="77") == "77"


def test_it_says_whether_it_came_in_time():
    assert started(CALL).stdout.split() == ["True"]
    assert started(f"import torch; {CALL}").stdout.split() == ["False"]


def test_it_loads_nothing_that_computes():
    code = "import sys, grade_lightning.threads; print([name for name in ('torch', 'numpy', 'lightning') if name in sys.modules])"
    assert started(code).stdout.strip() == "[]"
