"""Several processes of one run: ``python -m grade_lightning.launch --nproc-per-node 2 hardware=ddp run.dir=FOLDER``.

The same as ``torchrun OPTIONS -m grade_lightning.run OVERRIDES``, which works as well, but for how it ends: with the run's own exit status
(130 after Ctrl-C), and where a process is killed with a message that names it and the command that goes on.  Without ``--rdzv-endpoint``
or ``--master-addr`` all processes are of this machine (``--standalone``).
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Sequence

MEETING = ("--rdzv", "--master", "--standalone", "--nnodes")


_VALUES_WITH_EQUALS = ("--rdzv-conf", "--rdzv_conf")


def _is_override(given: Sequence[str], place: int) -> bool:
    word = given[place]
    return not word.startswith("-") and "=" in word and not (place and given[place - 1] in _VALUES_WITH_EQUALS)


def split_arguments(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """torchrun's options, and the run's overrides: what stands after ``--``; without that from the first word on that has a ``=``, is no
    option, and follows none of those whose value may have one."""
    if "--" in given:
        place = list(given).index("--")
        return list(given[:place]), list(given[place + 1 :])
    first = next((place for place in range(len(given)) if _is_override(given, place)), len(given))
    return list(given[:first]), list(given[first:])


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line; see the module's docstring."""
    options, overrides = split_arguments(sys.argv[1:] if arguments is None else arguments)
    if not options or {"-h", "--help"} & set(options):
        print(__doc__)
        return
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import parse_args, run

    from grade_lightning.training.strategy import LAUNCHED

    os.environ[LAUNCHED] = shlex.join(options)
    together = any(option.startswith(MEETING) for option in options)
    try:
        run(parse_args([*([] if together else ["--standalone"]), *options, "-m", "grade_lightning.run", *overrides]))
    except SignalException as stop:
        raise SystemExit(128 + stop.sigval) from None
    except ChildFailedError as failed:
        rank, failure = failed.get_first_failure()
        if failure.exitcode >= 0:  # which has said itself what was wrong
            raise SystemExit(failure.exitcode) from None
        again = shlex.join(["python", "-m", "grade_lightning.launch", *options, *overrides])
        print(
            f"\nprocess {rank} was killed ({signal.Signals(-failure.exitcode).name}) and the others were ended: the run is kept up to its "
            f"last checkpoint, and this command goes on with it:\n  {again}", flush=True,
        )  # fmt: skip
        raise SystemExit(128 - failure.exitcode) from None


if __name__ == "__main__":
    main()
