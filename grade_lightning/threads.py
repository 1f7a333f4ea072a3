"""How the threads of matrix products wait for each other.  Imports nothing that computes: it must run before torch is loaded."""

from __future__ import annotations

import os
import sys


def wait_passively() -> bool:
    """Let OpenMP's threads sleep while they wait instead of spinning; a user's own OMP_WAIT_POLICY wins.

    A thread that spins holds a core that another process, or another thread of its own team, could compute on: beside other load a run
    of small products then takes many times as long.  OpenMP's runtime reads the variable once, when torch brings it into the process,
    so that an entry calls this before anything imports torch; processes that are started later inherit it.

    Returns:
        Whether it was early enough for this process: torch is not loaded yet.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    return "torch" not in sys.modules
