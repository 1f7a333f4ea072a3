"""How the threads of matrix products wait for each other.  Imports nothing that computes: it must run before torch is loaded."""

from __future__ import annotations

import os
import sys

SPINS = "10000"  # looks before a waiting thread sleeps; GNU's runtime looks 300,000 times by default


def wait_briefly() -> bool:
    """Let OpenMP's threads sleep soon while they wait instead of spinning; a user's own OMP_WAIT_POLICY or GOMP_SPINCOUNT wins.

    A thread that spins holds a core that another process, or another thread of its own team, could compute on: beside other load a run
    of small products then takes many times as long.  A thread that sleeps at once is woken for each product, which an idle machine pays
    for.  Measured (2 cores, a GRADE-STE update of a model of 5 million weights): on an idle machine 1.07 s by default, 1.11 s with this
    number, 1.53 s with OMP_WAIT_POLICY=passive; beside two busy processes more than 8 s, 2.3 s and 2.1 s.

    OpenMP's runtime reads the variable once, when torch brings it into the process, so that an entry calls this before anything imports
    torch; processes that are started later inherit it.

    Returns:
        Whether it was early enough for this process: torch is not loaded yet.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
    return "torch" not in sys.modules
