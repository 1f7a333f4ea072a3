"""Run one experiment: ``python -m grade_lightning.run method=grade_ste`` (``--help`` lists the groups and every key)."""

from __future__ import annotations

import logging
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, ListConfig

from grade_lightning.compose import CONFIG_DIR, errors_as_messages, resolved, settings_of
from grade_lightning.console import RunLog, run_log
from grade_lightning.disks import disk_named
from grade_lightning.measurements import CLASSIFIER_JUDGE, best_by
from grade_lightning.overrides import check_arguments, values_beside_help
from grade_lightning.progress import bars_off
from grade_lightning.records.folder import RunFolder
from grade_lightning.records.identity import run_hash
from grade_lightning.records.text import yaml_text
from grade_lightning.settings import Settings, help_text
from grade_lightning.settings.of_run import read_config
from grade_lightning.threads import wait_briefly
from grade_lightning.training.interrupt import Interrupt, Interrupted, ProcessLost

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger

    from grade_lightning.setup import Inputs, Objects

log = logging.getLogger(__name__)


def execute(cfg: DictConfig) -> dict[str, Any]:
    """Check a composed configuration and run it.  -> what ``results.json`` holds."""
    return run(settings_of(cfg), resolved(cfg))


def run(
    settings: Settings, plain: Mapping[str, Any], *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = (),
    how: Callable[[], str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Prepare (base LM, reward head), fit, test once, record; a run that is finished already is not made again.

    Args:
        settings: of the run.
        plain: the values that the settings were made from: what is hashed and written to ``config.yaml``.
        callbacks: Lightning callbacks beside those of the settings.
        loggers: Lightning loggers beside those of the settings.  One that fails is left out for the rest of the run.
        how: what goes on with the run after an interrupt; the command if None.

    Returns:
        What ``results.json`` holds.

    Raises:
        ValueError: something cannot be used; nothing was computed yet.
    """
    from grade_lightning.setup import inputs
    from grade_lightning.tracking.made import check_loggers, made_callbacks
    from grade_lightning.training.process import command_started, prepare_process
    from grade_lightning.training.strategy import use_own_device
    from grade_lightning.training.trainer import trainer_class

    start, identity = command_started(), run_hash(plain)
    prepare_process()
    where = Path(settings.run.resume or settings.run.dir)
    with run_log() as log_file, bars_off(settings.quiet), disk_named(where, "set run.dir to another folder"):
        found = inputs(settings)
        names = sorted(type(callback).__qualname__ for callback in callbacks)
        results = _results_of_finished(found, plain, identity, names)
        if results is not None:
            return results
        use_own_device(found.accelerator)
        found.check()
        check_loggers(settings.logger, loggers)
        trainer_class(settings.trainer)
        watching = made_callbacks(settings.callbacks, callbacks)
        return _train(found, plain, identity, start, callbacks=watching, loggers=loggers, log_file=log_file, how=how, names=names)


def _results_of_finished(found: Inputs, plain: Mapping[str, Any], identity: str, given: list[str]) -> dict[str, Any] | None:
    """Results of this very run, if that is what its folder holds.

    Raises:
        ValueError: the hash knows folders by their last part only, and this run was made from other contents under the same names.
            Of reviews and prompts the rows of the splits are compared; a model pretrained here is not.  Or callbacks, which the hash
            does not know, ended it early, and now there are others.
    """
    folder = Path(found.settings.run.resume or found.settings.run.dir)
    results = RunFolder(folder, writes=False).finished(identity)
    if results is None:
        return None
    names = {
        "model_fingerprint": "another model",
        "splits": "other reviews or prompts",
        "reward_fingerprint": "another reward",
        "judge_fingerprints": "other judges",
        "adapter_fingerprint": "another starting adapter",
    }
    for key, fingerprint in found.named_by_folder().items():
        if fingerprint != results.get(key):
            raise ValueError(f"{folder} holds a finished run of {names[key]} of the same name: set run.dir to a new folder")
    if "planned_steps" in results and (_callbacks(folder) != (plain.get("callbacks") or {}) or results.get("given_callbacks", []) != given):
        raise ValueError(f"{folder} holds this run, ended by other callbacks after {results['steps']} steps: set run.dir to a new folder")
    _keep_config(folder, plain)
    log.info("%s already holds this very run, finished: nothing to do", folder)
    return results


def _keep_config(folder: Path, plain: Mapping[str, Any]) -> None:
    """Write ``config.yaml`` of a finished run again where it is gone or damaged: reports and exports read it, and the hash says that the
    settings are these."""
    from grade_lightning.training.strategy import process_of_torchrun

    try:
        read_config(folder)
    except ValueError as error:
        log.warning("%s: it is written again", error)
        RunFolder(folder, writes=process_of_torchrun()[0] == 0).write_text("config.yaml", yaml_text(plain))


def _callbacks(folder: Path) -> dict[str, Any]:
    """Those that the run in a folder was made with."""
    return read_config(folder).get("callbacks") or {}


def _open(settings: Settings, plain: Mapping[str, Any], identity: str) -> tuple[RunFolder, dict[str, Any], bool]:
    """The run folder, its environment, and whether training goes on from a checkpoint there."""
    from grade_lightning.training.environment import environment
    from grade_lightning.training.strategy import process_of_torchrun

    where = settings.run
    folder = RunFolder(where.resume or where.dir, writes=process_of_torchrun()[0] == 0)
    if where.resume is not None and not (folder.path / "environment.json").exists():
        raise ValueError(f"run.resume={where.resume} holds no run: give the folder of an unfinished run, or leave it out")
    noted = folder.started(identity)
    if noted is not None and folder.checkpoint.exists():
        log.info("going on with the unfinished run in %s", folder.path)
        return folder, noted, True
    folder.rewind(0)
    made = {**environment(), "config_hash": identity, "run_id": f"{identity}-{secrets.token_hex(3)}"}
    folder.write_text("config.yaml", yaml_text(plain))
    folder.write_json("environment.json", made)
    return folder, made, False


def _train(
    found: Inputs, plain: Mapping[str, Any], identity: str, start: float, *, callbacks: list[Callback], loggers: Sequence[Logger],
    log_file: RunLog, how: Callable[[], str] | None, names: list[str],
) -> dict[str, Any]:  # fmt: skip
    from grade_lightning.rewards.kept import keep_head
    from grade_lightning.setup import objects
    from grade_lightning.study.alarm import GradientCosine
    from grade_lightning.tracking.session import Session
    from grade_lightning.training.course import Course
    from grade_lightning.training.strategy import process_of_torchrun, trainer_options
    from grade_lightning.training.summary import print_summary
    from grade_lightning.training.trainer import trainer_class, trainer_flags

    settings = found.settings
    evaluation = settings.evaluation
    folder, environment, resume = _open(settings, plain, identity)
    if folder.writes:
        log_file.open(folder.path)
    with Interrupt(how or partial(_command_to_go_on, folder.path), several=process_of_torchrun()[1] > 1) as interrupt:
        made = objects(found, judges=_wants_judges(settings), check=partial(folder.begin, environment, again=resume))
        if folder.writes:
            keep_head(made.reward, folder.path)
        every = evaluation.gradient_cosine_every
        given = {"given_callbacks": names} if names else {}
        with Session(settings, plain, folder, environment["run_id"], loggers) as session:
            results = Course(
                made.module(), made.data(), folder, {**_description(made, plain, identity), **given}, max_steps=settings.max_steps,
                loggers=session.loggers, callbacks=[*([GradientCosine(every)] if every else []), *callbacks],
                validate_every=evaluation.validate_every, test=evaluation.test, samples=evaluation.samples,
                best_by=best_by(evaluation.best), checkpoint_every=settings.run.checkpoint_every, resume=resume, interrupt=interrupt,
                trainer_options={
                    **trainer_flags(settings.trainer, folder.path),
                    **trainer_options(found.accelerator, distributed=settings.hardware.distributed),
                },
                trainer_class=trainer_class(settings.trainer), quiet=settings.quiet,
                seconds={"prepare": time.perf_counter() - start}, started=start,
            ).run()  # fmt: skip
            session.tell(results)
    if folder.writes:
        print_summary(results, folder.path)
    return results


def _wants_judges(settings: Settings) -> bool:
    """Whether judges are made: the classifier of every run alone is not worth a search's time."""
    evaluation = settings.evaluation
    return evaluation.test or evaluation.best != "reward" or bool(set(evaluation.judges) - {CLASSIFIER_JUDGE})


def _description(made: Objects, plain: Mapping[str, Any], identity: str) -> dict[str, Any]:
    """What identifies the run in its results."""
    settings, base, splits = made.inputs.settings, made.base, made.inputs.splits
    names = settings.names
    return {
        "method": names.method, "model": names.model, "data": names.data, "protocol": names.protocol, "seed": settings.seed,
        "model_name": base.name, "model_fingerprint": base.fingerprint, "config_hash": identity,
        "variant_hash": run_hash(plain, without=("seed",)), "reward_head": made.reward_report,
        "reward_fingerprint": made.inputs.reward_fingerprint, "judge_fingerprints": made.inputs.judge_fingerprints or None,
        "adapter_fingerprint": made.inputs.adapter_fingerprint,
        "judge": made.judge_reports.get(CLASSIFIER_JUDGE), "judges": made.judge_reports,
        "splits": splits.fingerprints, "duplicates": splits.duplicates,
    }  # fmt: skip


def _command_to_go_on(folder: Path) -> str:
    """The command that goes on with the run in a folder; of a sweep, the sweep's own."""
    from grade_lightning.training.strategy import started_with

    given = sys.argv[1:]
    if not {"-m", "--multirun"} & set(given):
        given = [*(argument for argument in given if not argument.startswith(("run.dir=", "run.resume="))), f"run.dir={folder}"]
    return shlex.join([*started_with(), *given])


def _note_failure(cfg: DictConfig, error: Exception) -> None:
    """Leave the reason in the run folder, for the report at the end of a sweep."""
    from grade_lightning.training.sweep import FAILED

    folder = Path(str(cfg.run.dir or ""))
    if cfg.run.dir and folder.is_dir() and os.access(folder, os.W_OK):
        try:
            (folder / FAILED).write_text(f"{type(error).__name__}: {error}\n")
        except OSError as unwritten:
            log.debug("%s was not written: %s", FAILED, unwritten)  # of a full disk, which the error itself says


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="config")
def _command(cfg: DictConfig) -> float | tuple[float, float]:
    """Returns what searches go by, never the test: validation reward at the last step, and its KL where a search has two objectives."""
    with errors_as_messages():
        try:
            last = execute(cfg)["validation"][-1]
        except Interrupted as stop:
            if isinstance(stop, ProcessLost) or os.environ.get("RANK", "0") == "0":  # an interrupt reaches all processes
                print(f"\n{stop}", flush=True)
            raise SystemExit(stop.status) from None
        except Exception as error:
            _note_failure(cfg, error)
            raise
    return (last["reward_mean"], last["kl_mean"]) if _two_objectives() else float(last["reward_mean"])


def _two_objectives() -> bool:
    """Whether a search wants reward and KL (``hparams_search=frontier``)."""
    return isinstance(HydraConfig.get().sweeper.get("direction"), ListConfig)


def main(arguments: Sequence[str] | None = None) -> float | tuple[float, float] | None:
    """The command line; see the module's docstring.

    Returns:
        Validation reward at the last step, with its KL in a search of two objectives; None where nothing was run.
    """
    given = sys.argv[1:] if arguments is None else list(arguments)
    if any(argument in ("-h", "--help", "help") for argument in given):
        print(help_text(values_beside_help(given)))
        return None
    try:
        try:
            check_arguments(given)
        except ValueError as error:
            print(f"error: {error}", file=sys.stderr)
            raise SystemExit(2) from None
        wait_briefly()
        import lightning  # noqa: F401  makes its handlers before Hydra makes the root's, and only now: --help does not wait for it

        from grade_lightning.distributed import leave

        found = _command()
        leave()
        return found
    except KeyboardInterrupt:
        print("\ninterrupted before the run began or after it had ended", file=sys.stderr)
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
