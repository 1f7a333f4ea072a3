"""What an entry does to its own process before it computes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
import warnings

from grade_lightning import IMPORTED
from grade_lightning.console import silence_foreign_loggers

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3  # glibc's malloc.h


_unclaimed = [IMPORTED]


def command_started() -> float:
    """``time.perf_counter()`` when this command began: of the process for its first run, now for later runs of a sweep."""
    return _unclaimed.pop() if _unclaimed else time.perf_counter()


def prepare_process() -> None:
    """Keep freed memory in the process, and silence advice of libraries that does not apply here."""
    _keep_freed_memory()
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    warnings.filterwarnings("ignore", message=".*isinstance.treespec, LeafSpec.*")
    warnings.filterwarnings("ignore", message=".*The number of training batches.*")
    warnings.filterwarnings("ignore", message=".*Found .* module.s. in eval mode at the start of training.*")
    warnings.filterwarnings("ignore", message="The .srun. command is available on your system but is not used")
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing. is deprecated.*")
    import lightning  # noqa: F401  makes its handlers
    import transformers

    silence_foreign_loggers()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _keep_freed_memory() -> None:
    """Small models on a CPU spend most of their time on page faults if every tensor is mapped and unmapped anew.

    Under glibc, allocations up to 1 GiB come from the heap and freed memory stays there; torch asks for huge pages.
    A user's own THP_MEM_ALLOC_ENABLE wins.
    """
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # read by torch at its first allocation
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        for option, value in ((_M_MMAP_THRESHOLD, 1 << 30), (_M_TRIM_THRESHOLD, (1 << 31) - 1), (_M_TOP_PAD, 64 << 20)):
            mallopt(option, value)
