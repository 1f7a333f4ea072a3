"""Runs of a sweep as tasks of Ray: submitted all at once, waited for, told to save when the user stops the command."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, configure_log, run_job, setup_globals
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf, open_dict

if TYPE_CHECKING:
    from hydra_plugins.grade_ray_launcher import RayLauncher, RayOptions

os.environ.setdefault("RAY_DEDUP_LOGS", "0")  # lines that two runs have in common are lines of both
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is sent anywhere
import ray
from ray.exceptions import RayError

log = logging.getLogger(__name__)

# Variables that go from the command to its runs: on a cluster that runs already they would else be those of its own start.
PASSED = ("GRADE_", "HF_", "HYDRA_", "MLFLOW_", "OMP_", "WANDB_")
OBJECT_STORE = 128 << 20  # bytes of a local cluster's shared memory: configurations and results are small


@dataclass(frozen=True)
class Run:
    """One run to be made.

    Attributes:
        config: composed, with Hydra's own part.  folder: where it is recorded.
    """

    config: DictConfig
    folder: Path


def launch(launcher: RayLauncher, job_overrides: Sequence[Sequence[str]], first: int) -> list[JobReturn]:
    """Make runs.  -> what became of each, in the order of their overrides; a failed run is one of them."""
    setup_globals()
    config = launcher.config
    configure_log(config.hydra.hydra_logging, config.hydra.verbose)
    Path(str(config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
    runs = [_composed(launcher, overrides, first + place) for place, overrides in enumerate(job_overrides)]
    _connect(launcher.options)
    found = ray.cluster_resources()
    log.info("%d run(s) on a Ray cluster of %g CPUs and %g GPUs", len(runs), found.get("CPU", 0), found.get("GPU", 0))
    return _collected(_submitted(launcher, runs), runs)


def _composed(launcher: RayLauncher, overrides: Sequence[str], number: int) -> Run:
    config = launcher.hydra_context.config_loader.load_sweep_config(launcher.config, list(overrides))
    with open_dict(config):
        config.hydra.job.id = f"{config.hydra.job.name}_{number}"
        config.hydra.job.num = number
    HydraConfig.instance().set_config(config)  # the folder's name depends on the run's hash
    return Run(config, Path(str(config.hydra.sweep.dir), str(OmegaConf.select(config, "hydra.sweep.subdir"))))


def _connect(options: RayOptions) -> None:
    """A connection to the cluster, which is started if it is a local one; a search asks for it before each batch of runs.

    Raises:
        CompactHydraException: there is no such cluster, or a local one would never have room for a run.
    """
    if ray.is_initialized():
        return
    if options.address != "local":
        try:
            ray.init(address=options.address, logging_level=logging.WARNING)
        except (ConnectionError, ValueError, RayError) as error:
            advice = "set RAY_AUTH_MODE=token if it wants a token"
            raise CompactHydraException(f"hydra.launcher.address={options.address}: {error} ({advice})") from error
        for said in _lacking(options):
            log.warning("%s: runs wait until the cluster has them", said)  # it may grow
        return
    ray.init(
        address="local", num_cpus=options.cluster_cpus, num_gpus=options.cluster_gpus, include_dashboard=False,
        object_store_memory=OBJECT_STORE, logging_level=logging.WARNING,
    )  # fmt: skip
    for said in _lacking(options):
        raise CompactHydraException(said)


def _lacking(options: RayOptions) -> list[str]:
    """What a run wants more of than the cluster has."""
    found = ray.cluster_resources()
    asked = (("num_cpus", options.num_cpus, "CPU"), ("num_gpus", options.num_gpus, "GPU"))
    return [
        f"hydra.launcher.{key}={wanted:g}: a run wants more than the {found.get(kind, 0):g} that there are"
        for key, wanted, kind in asked
        if wanted > found.get(kind, 0)
    ]


def _submitted(launcher: RayLauncher, runs: Sequence[Run]) -> list[ray.ObjectRef]:
    options = launcher.options
    # A process for each run, as without Ray: a reused one would keep the memory of the run before.
    make = ray.remote(max_calls=1, max_retries=options.max_retries, num_cpus=options.num_cpus, num_gpus=options.num_gpus)(_make)
    environment = {name: value for name, value in os.environ.items() if name.startswith(PASSED)}
    if not options.num_gpus:  # Ray hides none from a task that asked for none, and all runs would be on the first
        environment["CUDA_VISIBLE_DEVICES"] = ""
    common = (launcher.hydra_context, launcher.task_function, Singleton.get_state())
    return [
        make.options(name=run.folder.name).remote(environment, sys.argv, str(Path.cwd()), ray.cloudpickle.dumps((*common, run.config)))
        for run in runs
    ]


def _make(environment: Mapping[str, str], arguments: Sequence[str], folder: str, pickled: bytes) -> JobReturn | int:
    """Make one run, in a process of the cluster.

    Args:
        environment: variables of the command, set before anything that might read them is imported.
        arguments: of the command, which a run names where it says what goes on with it.
        folder: the command's working directory, from which relative paths start.
        pickled: Hydra's context, the function that runs, Hydra's state, the configuration.

    Returns:
        What became of the run; the exit status if it stopped on purpose.
    """
    os.environ.update(environment)
    sys.argv[:] = arguments
    os.chdir(folder)
    context, function, state, config = ray.cloudpickle.loads(pickled)
    setup_globals()
    Singleton.set_state(state)
    HydraConfig.instance().set_config(config)
    try:
        return run_job(
            function, config, job_dir_key="hydra.sweep.dir", job_subdir_key="hydra.sweep.subdir", hydra_context=context
        )  # fmt: skip
    except SystemExit as stop:  # Ray would take it for a lost process
        return int(stop.code or 0)


def _collected(tasks: Sequence[ray.ObjectRef], runs: Sequence[Run]) -> list[JobReturn]:
    """Wait for tasks.  -> their results, in order.

    Raises:
        SystemExit: the user stopped the command.
    """
    run_of = dict(zip(tasks, runs, strict=True))
    results: dict[ray.ObjectRef, JobReturn] = {}
    waiting = list(tasks)
    try:
        while waiting:
            ready, waiting = ray.wait(waiting)
            results.update({task: _result(task, run_of[task]) for task in ready})
    except KeyboardInterrupt:
        _stop(waiting)
        left = [run.folder for task, run in run_of.items() if task not in results and not (run.folder / "results.json").exists()]
        print(f"\ninterrupted: {len(left)} run(s) of this sweep are not finished; running the sweep again goes on with them:")
        for folder in left:
            print(f"  {folder}")
        raise SystemExit(130) from None
    return [results[task] for task in tasks]


def _result(task: ray.ObjectRef, run: Run) -> JobReturn:
    """What became of a run, also of one whose process did not live to tell."""
    try:
        made = ray.get(task)
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        return _lost(run, f"{type(cause).__name__}: {' '.join(str(cause).split())}")
    return _lost(run, f"it stopped with exit status {made}") if isinstance(made, int) else made


def _lost(run: Run, reason: str) -> JobReturn:
    """A failure that the run itself could not note."""
    from grade_lightning.training.sweep import FAILED

    run.folder.mkdir(parents=True, exist_ok=True)
    (run.folder / FAILED).write_text(f"{reason}\n")
    print(f"{run.folder.name}: failed ({reason})", flush=True)
    overrides = list(run.config.hydra.overrides.task)
    result = JobReturn(overrides=overrides, cfg=run.config, status=JobStatus.FAILED)
    result.return_value = CompactHydraException(f"{run.folder}: {reason}")
    return result


def _stop(tasks: Sequence[ray.ObjectRef]) -> None:
    """Have runs save after their policy step, and wait for that; those that have not begun never do."""
    print("\ninterrupt: runs stop and are kept after their policy step (Ctrl-C again stops at once)", file=sys.stderr, flush=True)
    try:
        for task in tasks:
            ray.cancel(task)  # in the run's process as Ctrl-C
        ray.wait(list(tasks), num_returns=len(tasks))
    except KeyboardInterrupt:
        raise SystemExit(130) from None
