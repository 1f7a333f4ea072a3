"""Take a run's weights away: ``python -m grade_lightning.export run=DIR out=OUT``.

Keys: ``run`` (a finished run folder), ``out`` (a new folder, or that of an earlier export), ``merge`` (``true``: one model, the adapters
added to the base; ``false``, the default: the adapter in PEFT's layout), ``push`` (USER/NAME of a repository to upload to; a new one is
private), ``checkpoint`` (``last`` or ``best``), ``base`` (where the base of the run is now, if it was a folder that has moved),
``trust`` (``true``: import code from outside this package that the run's configuration names).

``out`` gets the weights (safetensors), the tokenizer and a model card, README.md, which shows the three lines that load them with
transformers and PEFT.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from grade_lightning.arguments import command, flag
from grade_lightning.exporting.files import check_out, mark, replacing
from grade_lightning.exporting.finished import FinishedRun, read_finished
from grade_lightning.settings.of_run import check_run, read_config, settings_from

if TYPE_CHECKING:
    from grade_lightning.exporting.weights import Base

log = logging.getLogger(__name__)

_USAGE = "use run=DIR out=OUT [merge=true] [push=USER/NAME] [checkpoint=last|best] [base=DIR] [trust=true]"


@dataclass(frozen=True)
class Request:
    """What to export; see the module's docstring."""

    run: Path
    out: Path
    merge: bool = False
    push: str | None = None
    checkpoint: str = "last"
    base: Path | None = None
    trust: bool = False


def parse(arguments: Sequence[str]) -> Request:
    """``key=value`` arguments -> a request.

    Raises:
        ValueError: an argument of another form, an unknown key, no run or no place for it.
    """
    values: dict[str, str] = {}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or not value or key not in Request.__annotations__:
            raise ValueError(f"{argument!r} is not understood: {_USAGE}")
        values[key] = value
    missing = [key for key in ("run", "out") if key not in values]
    if missing:
        raise ValueError(f"{missing[0]}= is missing: {_USAGE}")
    return Request(
        Path(values["run"]), Path(values["out"]), flag(values, "merge"), values.get("push"), values.get("checkpoint", "last"),
        Path(values["base"]) if "base" in values else None, flag(values, "trust"),
    )  # fmt: skip


def export(
    run: Path, out: Path, *, merge: bool = False, push: str | None = None, checkpoint: str = "last", base: Path | None = None,
    trust: bool = False,
) -> Path:  # fmt: skip
    """Write a run's weights so that transformers and PEFT load them without this package, with a model card.

    Args:
        run: folder of a finished run.
        out: a folder that is not there, is empty, or holds an earlier export, which is replaced as a whole.
        merge: add the adapters to the base and write one model; otherwise the adapter, with its base beside it where no hub has that.
        push: USER/NAME of a hub's repository to upload ``out`` to.
        checkpoint: ``last`` or ``best``.
        base: the base's folder, if the run's has moved.
        trust: code from outside this package that the run's configuration names may be imported.

    Returns:
        ``out``, as an absolute path.

    Raises:
        ValueError: any of it cannot be done; all but a failed upload is found before ``out`` is touched.
    """
    request = Request(Path(run).expanduser(), Path(out).expanduser().resolve(), merge, push, checkpoint, base, trust)
    finished = _checked(request)
    from grade_lightning.exporting.card import Exported, card
    from grade_lightning.exporting.weights import write_adapter, write_merged
    from grade_lightning.models.adapters import read_adapter

    adapter, where = read_adapter(request.run / "checkpoints" / checkpoint), _base(finished, base)
    tokenizer, rounding = where.tokenizer(), 0.0
    with replacing(request.out) as folder:
        if merge:
            rounding = write_merged(finished, adapter, where, folder)
        else:
            write_adapter(adapter, where, folder, request.out)
        tokenizer.save_pretrained(folder)
        (folder / "README.md").write_text(card(Exported(finished, where, merge, checkpoint, push or ".", rounding)), encoding="utf-8")
        mark(folder, {
            "kind": "merged" if merge else "adapter", "checkpoint": checkpoint, "config_hash": finished.results.get("config_hash"),
            "adapter_fingerprint": adapter.fingerprint, "base_fingerprint": finished.fingerprint, "base": where.hub,
        })  # fmt: skip
    if rounding > 0.1:
        log.warning("rounding to %s took %.0f%% of what training added: the adapter alone has no such loss", finished.dtype, 100 * rounding)
    if push is not None:
        from grade_lightning.exporting import hub

        log.info("uploaded to %s", hub.push(request.out, push))
    return request.out


def _checked(request: Request) -> FinishedRun:
    """The run, once nothing speaks against the export that can be known at once."""
    check_run(request.run, request.checkpoint)
    check_out(request.out)
    if request.push is not None:
        from grade_lightning.exporting.hub import check_push

        check_push(request.push)
    config = read_config(request.run)
    return read_finished(request.run, settings_from(config, request.run, trust=request.trust, functions=False), config)


def _base(run: FinishedRun, given: Path | None) -> Base:
    """Where the base of a run is.

    Raises:
        ValueError: it is not there, or is another one.
    """
    from grade_lightning.exporting.weights import Base
    from grade_lightning.models.base import check_model_folder
    from grade_lightning.models.cache import files_fingerprint

    model = run.settings.model
    if run.hub is not None:
        if given is not None:
            raise ValueError(f"base={given}: the base of this run is {run.hub} of the hub, leave it out")
        return Base(run.hub, run.fingerprint, None, model.trust_remote_code)
    try:
        folder = check_model_folder(given or _path_of(run))
    except ValueError as error:
        raise ValueError(f"the base of {run.path} is not where it was: {error}. Say where it is now: base=DIR") from error
    if files_fingerprint(folder) != run.fingerprint:
        raise ValueError(f"{folder} is not the base that {run.path} was made with: its files are others. Say where that is: base=DIR")
    return Base(None, None, folder.resolve(), model.trust_remote_code)


def _path_of(run: FinishedRun) -> str:
    from grade_lightning.setup import base_path, inputs

    settings = run.settings
    return base_path(inputs(replace(settings, hardware=replace(settings.hardware, accelerator="cpu"))))


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a request that cannot be met."""
    given = sys.argv[1:] if arguments is None else arguments

    def make(chosen: Sequence[str]) -> tuple[Request, Path]:
        wanted = parse(chosen)
        out = export(
            wanted.run, wanted.out, merge=wanted.merge, push=wanted.push, checkpoint=wanted.checkpoint, base=wanted.base,
            trust=wanted.trust,
        )  # fmt: skip
        return wanted, out

    def show(made: tuple[Request, Path]) -> None:
        wanted, out = made
        print(f"written to {out}{f' and uploaded as {wanted.push}' if wanted.push else ''}; README.md says how to load it")

    return command(__doc__, given or ["--help"], make, show)


if __name__ == "__main__":
    sys.exit(main())
