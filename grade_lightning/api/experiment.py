"""Training from Python: the command line's settings, checks and run folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grade_lightning.api.overrides import flat, of_fields, of_model, of_prompts, of_reward, text_of
from grade_lightning.api.run import Run

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.loggers import Logger


class Experiment:
    """One run before it is made: settings composed and checked, nothing loaded.

    Args:
        model: a folder in the Hugging Face layout, a hub id, or a name of the model group (``tiny`` needs nothing).
        prompts: texts, chats, rows (a ``datasets.Dataset``, dictionaries) with a column ``prompt``, or the path of such a file; None =
            the openings of reviews that the group ``data`` says.
        reward: a function called as TRL calls its own, ``fn(prompts=[...], completions=[...], **columns) -> numbers``; an object with the
            interface of :class:`grade_lightning.rewards.base.Reward`; a name of the reward group, ``module:name``, or a classifier's folder
            or hub id; None = the classifier head on labelled reviews.
        method: a name of the method group.
        max_steps: policy steps; None = the configuration's.
        dir: run folder; the same call into the same folder goes on where it stopped, and returns what is finished.
        **fields: every other setting: ``kl_coef=0.05``, ``optimizer={"lr": 1e-3}`` or ``optimizer__lr=1e-3``, ``temperature="constant"``.

    Attributes:
        dir: run folder.
        overrides: what the command line would have been given.
        settings: typed and checked.

    Raises:
        ValueError: naming every setting that cannot be used.
    """

    def __init__(  # noqa: PLR0917  as a user says it: model, prompts, reward
        self, model: str | Path = "tiny", prompts: str | Path | Iterable[Any] | None = None, reward: Any = None, method: str = "grade_ste",
        max_steps: int | None = None, dir: str | Path = "outputs/run", **fields: Any,
    ):  # fmt: skip
        from grade_lightning.compose import composed, resolved, settings_of
        from grade_lightning.overrides import check_arguments

        self.dir, self._reward = Path(dir), reward
        given = dict(flat(fields))
        if "run.dir" in given:
            raise ValueError("run.dir is said by dir=")
        if prompts is not None and "data" in given:
            raise ValueError(f"data={given['data']} and prompts of your own exclude each other: leave one out")
        if prompts is not None and reward is None:
            raise ValueError("prompts of your own have no labels to learn a reward from: give reward=, a function of texts for instance")
        self.overrides = [
            *of_model(model), *of_prompts(prompts, self.dir, fields), *of_reward(reward), f"method={method}", *of_fields(fields),
            *([] if max_steps is None else [f"max_steps={max_steps}"]), f"run.dir={text_of(self.dir)}",
        ]  # fmt: skip
        check_arguments(self.overrides)
        cfg = composed(self.overrides)
        self.settings, self._plain = settings_of(cfg), resolved(cfg)

    @property
    def command(self) -> str:
        """The command line that makes the same run, in a process that has the same reward."""
        return f"python -m grade_lightning.run {shlex.join(self.overrides)}"

    def run(self, *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()) -> Run:
        """Train, test once, record.

        Args:
            callbacks: of Lightning, beside those of the settings; an epoch of theirs is a policy step.
            loggers: of Lightning, beside those of the settings.

        Raises:
            ValueError: something cannot be had or read; the message says what to do.
            KeyboardInterrupt: the run was interrupted, or the process was told to end; the same call goes on.
        """
        from grade_lightning.run import run
        from grade_lightning.training.interrupt import Interrupted
        from grade_lightning.training.process import command_started

        command_started()  # the time from the import of this package to now is the caller's own
        try:
            run(self.settings, self._plain, callbacks=callbacks, loggers=loggers, how=lambda: f"the same call, into dir={self.dir}")
        except Interrupted as stop:
            raise KeyboardInterrupt(str(stop)) from None
        return Run(self.dir, reward=self._reward, trust=True)


def train(  # noqa: PLR0917
    model: str | Path = "tiny", prompts: str | Path | Iterable[Any] | None = None, reward: Any = None, method: str = "grade_ste",
    max_steps: int | None = None, dir: str | Path = "outputs/run", *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = (),
    **fields: Any,
) -> Run:  # fmt: skip
    """Make a run; arguments as those of :class:`Experiment` and of its ``run``."""
    return Experiment(model, prompts, reward, method, max_steps, dir, **fields).run(callbacks=callbacks, loggers=loggers)
