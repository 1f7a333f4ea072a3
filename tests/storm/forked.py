"""Whole commands without their imports: a process that has imported everything forks once for each of them.

The server has one thread and has run nothing, so that a fork of it is in the state of a fresh interpreter after its imports.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

ROOT = Path(__file__).parents[2]
# What a run imports late: without it each fork would import it again.
LATE = (
    "grade_lightning.run", "grade_lightning.setup", "grade_lightning.training.course", "grade_lightning.training.environment",
    "grade_lightning.training.trainer", "grade_lightning.training.summary", "grade_lightning.tracking.session",
    "grade_lightning.training.sweep", "grade_lightning.study.alarm", "grade_lightning.rewards.kept", "grade_lightning.rewards.surrogate",
    "grade_lightning.evaluation.judges", "grade_lightning.methods", "transformers.models.qwen3.modeling_qwen3",
    "transformers.integrations.sdpa_attention", "transformers.generation.utils", "sklearn.feature_extraction.text",
    "sklearn.linear_model", "peft", "peft.utils.save_and_load", "torch._dynamo", "tests.storm.marks",
)  # fmt: skip


@dataclass(frozen=True)
class Request:
    """One command, and what happens to it from within.

    Attributes:
        arguments: of ``python -m grade_lightning.run``.
        cwd: where it runs. output: file for what it says. cache: ``GRADE_CACHE``.
        marks: file for the phases it enters; see :mod:`tests.storm.marks`.
        at: the change of a file at which a signal comes, counted from 1; None = at none.
        signal: which signal.
    """

    arguments: Sequence[str]
    cwd: str
    output: str
    cache: str
    marks: str
    at: int | None = None
    signal: int = 0
    watched: Sequence[str] = field(default_factory=tuple)


class Forked:
    """Starts commands in forks of one server; use as a context manager."""

    def __enter__(self) -> Forked:
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": str(ROOT)}
        for name in ("WANDB_SERVICE", "RANK", "WORLD_SIZE"):
            environment.pop(name, None)
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.storm.forked"], cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            bufsize=0,  # select sees nothing of what Python has read ahead
        )  # fmt: skip
        assert self._reply(300) == {"ready": True}
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)

    def start(self, request: Request) -> int:
        """-> the process's id."""
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
        return int(self._reply(60)["pid"])

    def ended(self, seconds: float) -> int | None:
        """The exit status of the command, negative for a signal; None if it has not ended in that time."""
        reply = self._reply(seconds)
        return None if reply is None else int(reply["status"])

    def _reply(self, seconds: float) -> Any:
        assert self._server.stdout is not None
        if not select.select([self._server.stdout], [], [], seconds)[0]:
            return None
        line = self._server.stdout.readline()
        assert line, "the server has ended"
        return json.loads(line)


def _serve() -> Request | None:
    """Fork for each line.  -> in a fork its request; in the server None, at the end."""
    own = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what imports print
    for name in LATE:
        importlib.import_module(name)
    threads = sorted(Path(f"/proc/self/task/{number}/comm").read_text().strip() for number in os.listdir("/proc/self/task"))
    others = [name for name in threads if not name.startswith("jemalloc")]  # pyarrow's, which sees to forks itself
    assert threading.active_count() == len(others) == 1, f"a fork would lack a thread: {threads}"
    gc.collect()
    gc.freeze()
    own.write('{"ready": true}\n')
    while line := sys.stdin.readline():
        child = os.fork()
        if not child:
            own.close()
            return Request(**json.loads(line))
        own.write(json.dumps({"pid": child}) + "\n")
        own.write(json.dumps({"status": os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}) + "\n")
    return None


def _become(request: Request) -> None:
    """The command of a request, in this process."""
    from grade_lightning import run
    from grade_lightning.training import process
    from tests.storm import marks

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that starts tests in the background lets them ignore it
    output = os.open(request.output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    for descriptor in (1, 2):
        os.dup2(output, descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(request.cwd)
    os.environ["GRADE_CACHE"] = request.cache
    sys.argv = [run.__file__, *request.arguments]
    process._unclaimed[:] = [time.perf_counter()]
    marks.install(request.marks, request.watched, request.at, request.signal)
    run.main()


def _end(command: Callable[[], None]) -> NoReturn:
    """Exit as an interpreter does, but for the objects, which take seconds to dispose of one by one.  Ctrl-C at an exit is Python's own
    affair."""
    status: Any = 0
    try:
        command()
    except SystemExit as stop:
        status = stop.code
    except BaseException:  # noqa: BLE001  what an interpreter would show
        traceback.print_exc()
        status = 1
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if isinstance(status, str):
        print(status, file=sys.stderr)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status if isinstance(status, int) else int(status is not None))


if __name__ == "__main__":
    wanted = _serve()
    if wanted is not None:
        _end(partial(_become, wanted))
