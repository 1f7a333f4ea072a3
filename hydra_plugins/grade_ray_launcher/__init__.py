"""A Hydra launcher that makes each run of a sweep a task of a Ray cluster (``launcher=ray``).

Hydra takes plugins from the namespace package ``hydra_plugins`` alone and imports all of them at each start: Ray is imported when runs are
made. Hydra does so before Python knows them as modules, and then a dataclass cannot look up annotations that are strings: no ``from
__future__`` here.
"""

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass

from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class RayOptions:
    """Where runs are made and what each of them gets.

    Attributes:
        address: ``local``: a cluster of this machine, for as long as the command lasts; ``auto`` or HOST:PORT: one that runs.
        cluster_cpus: CPUs of a local cluster; all of the machine's if None.
        cluster_gpus: likewise its GPUs.
        num_cpus: CPUs of one run.
        num_gpus: GPUs of one run; it sees no others, and none if 0.
        max_retries: how often a run whose process was killed is taken up again; -1 for always.
    """

    address: str = "local"
    cluster_cpus: int | None = None
    cluster_gpus: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    max_retries: int = 2


@dataclass
class RayLauncherConf(RayOptions):
    """The group ``hydra/launcher: grade_ray``."""

    _target_: str = "hydra_plugins.grade_ray_launcher.RayLauncher"


class RayLauncher(Launcher):
    """Runs side by side, as many as the cluster has room for.

    Args:
        options: fields of :class:`RayOptions`.
    """

    def __init__(self, **options: str | float | None) -> None:
        self.options = RayOptions(**options)  # type: ignore[arg-type]  # Hydra has checked them

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's hand-over, before any run.

        Raises:
            CompactHydraException: Ray is not installed.
        """
        if importlib.util.find_spec("ray") is None:
            raise CompactHydraException("launcher=ray needs Ray: pip install 'grade-lightning[ray]'")
        self.hydra_context, self.task_function, self.config = hydra_context, task_function, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Make runs.  -> what became of each, in the order of their overrides."""
        from hydra_plugins.grade_ray_launcher._tasks import launch

        return launch(self, job_overrides, initial_job_idx)


ConfigStore.instance().store(group="hydra/launcher", name="grade_ray", node=RayLauncherConf, provider="grade_lightning")
