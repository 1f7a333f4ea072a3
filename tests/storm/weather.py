"""One fault after another: what happens to a run, and whether the same command makes good for it."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.storm.faults import CACHED, COLD, Fault
from tests.storm.forked import Forked
from tests.storm.sandbox import NUMBERS, Outcome, Sandbox, Twin, differences, mount, twin

REMEDY = re.compile(r"\b(?:remove|free|set|make)\b")
NAMED = re.compile(r"remove (/\S+?)[,:;.]?(?:\s|$)")
IDENTICAL, MESSAGE = "identical", "one message, and identical after its remedy"
ENDS = {"KILL": (-9,), "TERM": (143,), "INT": (130,)}


class Failed(Exception):
    """What a fault did that it must not."""


class Weather:
    """Runs faults against undisturbed twins.

    Args:
        root: a folder for all of them. server: starts commands.
    """

    def __init__(self, root: Path, server: Forked):
        self.root, self.server = root, server
        self._twins: dict[str, Twin] = {}
        first = Sandbox(root / "first", "rloo", server, None)
        self._cold, self._cache = twin(first), first.cache

    def twin(self, method: str) -> Twin:
        """The undisturbed run of a method, made once."""
        if method not in self._twins:
            sandbox = Sandbox(self.root / f"twin-{method}", method, self.server, self._cache)
            self._twins[method] = twin(sandbox, self._cold)
            sandbox.remove()
        return self._twins[method]

    def strike(self, fault: Fault) -> str:
        """Let a fault happen and give the same command again.  -> how that ended.

        Raises:
            Failed: neither the twin's results nor one message with a remedy.
        """
        like = self.twin(fault.method)
        cold = fault.where in COLD or (fault.kind, fault.where) in (("disk", "cache"), ("read-only", "cache"))
        sandbox = Sandbox(self.root / str(fault.number), fault.method, self.server, None if cold else self._cache)
        outcome = {"signal": self._signal, "disk": self._disk, "read-only": self._read_only, "damage": self._damage}[fault.kind](
            sandbox, fault, like
        )
        sandbox.remove()
        return outcome

    def _signal(self, sandbox: Sandbox, fault: Fault, like: Twin) -> str:
        number = NUMBERS[fault.what]
        if fault.where == "records":
            done = sandbox.interrupted_at(1 + int(fault.share * like.changes), number)
        else:
            done = sandbox.interrupted(fault.where, fault.share * like.seconds(fault.where), number)
        # Before a run sees to signals, and after it.
        at_once = (-15,) if fault.what == "TERM" and done.reached in ("start", "finish", "ended") else ()
        if done.status not in (0, *ENDS[fault.what], *at_once) or done.traceback:
            raise Failed(f"the signal: exit status {done.status}\n{done.output[-3000:]}")
        if done.status in (130, 143) and done.output.count("interrupted") != 1:
            raise Failed(f"the signal: not one message\n{done.output[-3000:]}")
        if done.status == 0 and done.reached not in ("finish", "ended"):
            raise Failed(f"the signal, in {done.reached}: the run went on to its end")
        self._same(sandbox, like)
        return IDENTICAL if done.status else f"{IDENTICAL}, the run had ended before the signal"

    def _disk(self, sandbox: Sandbox, fault: Fault, like: Twin) -> str:
        folder = sandbox.cache if fault.where == "cache" else sandbox.run
        full = 180_000 if fault.where == "cache" else int(1.3 * like.size)
        with sandbox.disk(folder, 4096 * (2 + int(fault.share * full / 4096))):
            done = sandbox.command()
            if done.status:
                self._one_message(done, "No space left")
            mount("-o", "remount,size=64m", str(folder))
            self._same(sandbox, like)
        return MESSAGE if done.status else f"{IDENTICAL}, the disk sufficed"

    def _read_only(self, sandbox: Sandbox, fault: Fault, like: Twin) -> str:
        folder = sandbox.run if fault.where == "run" else sandbox.cache
        with sandbox.disk(folder, 64 << 20):
            mount("-o", "remount,ro", str(folder))
            done = sandbox.command()
            if fault.where != "full cache":
                self._one_message(done, "Read-only")
            mount("-o", "remount,rw", str(folder))
            self._same(sandbox, like)
        return MESSAGE if done.status else IDENTICAL

    def _damage(self, sandbox: Sandbox, fault: Fault, like: Twin) -> str:
        if fault.where in ("results.json", "config.yaml"):
            sandbox.command()
        else:
            sandbox.interrupted("step", 0.05, NUMBERS["KILL"], times=4)
        file = next(_files(sandbox, fault.where))
        _damage(file, fault.what, fault.share)
        done = sandbox.command()
        if not done.status:
            self._compare(sandbox, done, like)
            return IDENTICAL
        self._one_message(done, str(sandbox.root))
        named = NAMED.search(done.output)
        if named is None:
            raise Failed(f"the message names nothing to remove\n{done.output[-3000:]}")
        path = Path(named[1])
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        self._same(sandbox, like)
        return MESSAGE

    def _same(self, sandbox: Sandbox, like: Twin) -> None:
        done = sandbox.command()
        if done.status:
            raise Failed(f"the same command again: exit status {done.status}\n{done.output[-3000:]}")
        self._compare(sandbox, done, like)

    def _compare(self, sandbox: Sandbox, done: Outcome, like: Twin) -> None:
        found = differences(sandbox.left(), like.left)
        if found or done.traceback:
            raise Failed(f"the same command again: differs from the undisturbed run in {found}\n{done.output[-3000:]}")

    def _one_message(self, done: Outcome, part: str) -> None:
        lines = [line for line in done.output.splitlines() if part in line and REMEDY.search(line)]
        if done.status <= 0 or done.traceback or len(lines) != 1:
            raise Failed(f"not one message with a remedy: exit status {done.status}\n{done.output[-3000:]}")


def _files(sandbox: Sandbox, name: str) -> Iterator[Path]:
    if name in CACHED:
        kind = "reward-head" if name in ("head.safetensors", "report.json") else "base-lm"
        yield from sandbox.cache.glob(f"{kind}/*/{name}")
    else:
        yield sandbox.run / name


def _damage(file: Path, how: str, share: float) -> None:
    content, rng = file.read_bytes(), random.Random(share)
    if how == "missing":
        file.unlink()
    elif how == "garbage line":
        lines = content.splitlines(keepends=True)
        lines.insert(rng.randint(1, len(lines)), rng.randbytes(30).replace(b"\n", b"") + b"\n")
        file.write_bytes(b"".join(lines))
    else:
        file.write_bytes({"truncated": content[: int(share * len(content))], "garbage": rng.randbytes(len(content)), "empty": b""}[how])


def can_mount(folder: Path) -> bool:
    """Whether this process may mount a disk of its own."""
    folder.mkdir()
    try:
        mount("-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder))
    except (subprocess.CalledProcessError, FileNotFoundError):
        return False
    subprocess.run(["umount", str(folder)], check=True)
    return True
