"""Cases side by side, each in a process of its own, updating one at a time in turns.

A machine that others use is faster at one moment than at the next, by more than the differences that matter here.  What is measured
within seconds of each other can be compared all the same, so ratios are taken round by round.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from experiments.benchmarks.serve import MARK

REPOSITORY = Path(__file__).parents[2]


class Worker:
    """One case in a process that has loaded and warmed up, and updates when it is asked.

    Args:
        case, setting: of :mod:`experiments.benchmarks.measure`.

    Raises:
        RuntimeError: the process ended; with the end of what it wrote.
    """

    def __init__(self, case: str, setting: dict[str, Any]):
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "experiments.benchmarks.measure", case, json.dumps(setting)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True, cwd=REPOSITORY,
        )  # fmt: skip
        try:
            self._answer()
        except BaseException:
            self.close()
            raise

    def update(self) -> dict[str, Any]:
        """One update's ``seconds``, and what else is known after it."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # the answer says why
            self._process.stdin.write("\n")
            self._process.stdin.flush()
        return self._answer()

    def close(self) -> None:
        """End the process, which tidies up after itself at the end of its input."""
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):
            self._process.stdin.close()
        try:
            self._process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._errors.close()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        self._errors.seek(0)
        raise RuntimeError(f"{' '.join(map(str, self._process.args[2:]))} ended:\n{self._errors.read()[-4000:]}")  # type: ignore[index]


@contextmanager
def _worker(case: str, setting: dict[str, Any]) -> Iterator[Worker]:
    worker = Worker(case, setting)
    try:
        yield worker
    finally:
        worker.close()


def take_turns(
    cases: dict[str, tuple[str, dict[str, Any]]], rounds: int, *, optional: Collection[str] = (),
    settled: Callable[[dict[str, list[dict[str, Any]]]], bool] = lambda found: True,
) -> dict[str, list[dict[str, Any]]]:  # fmt: skip
    """What each round measured, by case; an update of each case is one round.

    Args:
        cases: name -> case and setting.
        rounds: at least so many, and at most twice as many.
        optional: names of cases that may fail, which is then said and they are left out.
        settled: whether what was found needs no further round.
    """
    found: dict[str, list[dict[str, Any]]] = {}
    with ExitStack() as running, tqdm(total=len(cases) * (rounds + 1), desc="updates") as bar:
        workers = {}
        for name, (case, setting) in cases.items():
            bar.set_postfix_str(f"starting {name}")
            try:
                workers[name] = running.enter_context(_worker(case, setting))
            except RuntimeError as error:
                if name not in optional:
                    raise
                tqdm.write(f"{name} is left out: {error}")
            bar.update()
        for made in range(2 * rounds):
            if made >= rounds and settled(found):
                break
            _round(workers, found, optional, bar)
    return found


def _round(workers: dict[str, Worker], found: dict[str, list[dict[str, Any]]], optional: Collection[str], bar: tqdm[Any]) -> None:
    for name in list(workers):
        bar.set_postfix_str(name)
        try:
            found.setdefault(name, []).append(workers[name].update())
        except RuntimeError as error:
            if name not in optional:
                raise
            tqdm.write(f"{name} is left out: {error}")
            del workers[name], found[name]
        bar.update()


def summary(measured: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and spread of one case's rounds."""
    seconds, last = [one["seconds"] for one in measured], measured[-1]
    return {
        "seconds": statistics.median(seconds), "fastest": min(seconds), "slowest": max(seconds), "rounds": seconds,
        **{key: value for key, value in last.items() if key != "seconds"},
    }  # fmt: skip


FENCED = 7  # rounds from which on fences mean something


def ratio(above: list[dict[str, Any]], below: list[dict[str, Any]], key: str = "seconds") -> dict[str, Any]:
    """Quotients of two cases that took turns: their median over rounds, and the smallest and largest that are no outliers.

    Outliers are those beyond Tukey's fences, more than 1.5 interquartile ranges outside the quartiles, of at least seven rounds; they are
    counted, and all quotients are kept in the order in which they were made.
    """
    made = [a[key] / b[key] for a, b in zip(above, below, strict=True)]
    kept = quotients = sorted(made)
    if len(quotients) >= FENCED:
        low, _, high = statistics.quantiles(quotients, n=4, method="inclusive")
        fence = 1.5 * (high - low)
        kept = [quotient for quotient in quotients if low - fence <= quotient <= high + fence]
    return {"median": statistics.median(quotients), "smallest": kept[0], "largest": kept[-1], "outliers": len(quotients) - len(kept),
            "quotients": made}  # fmt: skip
