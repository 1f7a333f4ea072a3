"""The two phases before training: what a run reads and what that is called (:func:`inputs`), then the objects (:func:`objects`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from grade_lightning.build import build, build_module
from grade_lightning.data.module import PromptDataModule, ReviewDataModule
from grade_lightning.evaluation.judges import check_best
from grade_lightning.inputs import Inputs, inputs
from grade_lightning.methods.base import Context
from grade_lightning.models.base import BaseLM, load_base
from grade_lightning.models.policy import Policy
from grade_lightning.models.pretraining import pretrained_folder
from grade_lightning.rewards.base import Reward, RewardInputs
from grade_lightning.settings import Settings
from grade_lightning.settings.data import DataSettings, PromptDataSettings
from grade_lightning.training.module import MethodModule, Plan

__all__ = ["Inputs", "Objects", "inputs", "objects"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Objects:
    """What a run is made of, ready to use.

    Attributes:
        base: the frozen base LM. policy: base + LoRA.
        reward, reward_report: the reward and what is known of its accuracy.
        judges, judge_reports: rewards that nothing optimises, and what is known of them; empty where none was asked for.
    """

    inputs: Inputs
    base: BaseLM
    policy: Policy
    reward: Reward
    reward_report: dict[str, Any]
    judges: dict[str, Reward]
    judge_reports: dict[str, dict[str, Any]]

    def context(self, settings: Settings | None = None) -> Context:
        """What a method gets of these objects, under the settings that they were made with or those of another method."""
        chosen = settings or self.inputs.settings
        return Context(self.policy, self.reward, chosen.rollout, chosen.seed, chosen.kl_coef, chosen.protocol)

    def module(self) -> MethodModule:
        """The method as a LightningModule."""
        settings = self.inputs.settings
        plan = Plan(
            settings.optimizer,
            settings.hardware.grad_accumulation,
            settings.evaluation.seed,
            settings.evaluation_rollout,
            self.judges,
            settings.evaluation.scope,
            settings.evaluation.gradient_parts_every,
            settings.hardware.sharded,
        )
        return build_module(settings.method, self.context(), plan)

    def data(self) -> PromptDataModule:
        """Prompts of policy, validation and test."""
        settings = self.inputs.settings
        data, evaluation = settings.data, settings.evaluation
        options: dict[str, Any] = {
            "effective_batch_size": settings.effective_batch_size // settings.method_settings.completions_per_prompt,
            "seed": settings.seed, "subset_seed": evaluation.subset_seed, "evaluation_batch_size": evaluation.batch_size,
            "val_prompts": evaluation.val_prompts, "test_prompts": evaluation.test_prompts,
        }  # fmt: skip
        if isinstance(data, PromptDataSettings):
            return PromptDataModule(self.inputs.own_prompts, self.base.tokenizer, **options)
        assert self.inputs.reviews is not None
        return ReviewDataModule(
            self.inputs.reviews, self.base.tokenizer, clean_html=data.clean_html, max_sentences=data.prompt.max_sentences,
            max_chars=data.prompt.max_chars, max_tokens=data.prompt.max_tokens, **options,
        )  # fmt: skip


def objects(
    found: Inputs, *, judges: bool, check: Callable[[dict[str, Any]], None] | None = None,
    kept: Callable[[Policy], Reward | None] | None = None,
) -> Objects:  # fmt: skip
    """The second phase: load the base LM (pretraining it if the model group says so), and train the reward head, both from the cache
    where they are there.

    Args:
        judges: make the judges too.
        check: is given the fingerprints of base LM and data before anything is made with both, and may raise.
        kept: a reward that is there already, or None; where it is there and no judge is wanted, no reviews are read.

    Raises:
        ValueError: any of it cannot be had; the message says what to do.
    """
    settings = found.settings
    base = _base(found)
    if check is not None:
        check(found.fingerprints(base))
    lora = settings.model.lora
    policy = Policy(
        base, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules, seed=settings.seed,
        checkpointing=settings.hardware.activation_checkpointing,
    )  # fmt: skip
    if found.adapter is not None:
        policy.load_adapter(found.adapter.file)
    settings.rollout.check(policy.vocab_size)
    clean_html = isinstance(settings.data, DataSettings) and settings.data.clean_html
    there = None if kept is None else kept(policy)
    if there is not None and not judges:
        return Objects(found, base, policy, there, {}, {}, {})
    lent = RewardInputs(base, policy, found.reviews, clean_html, settings.hardware.precision)
    reward, report = (there, {}) if there is not None else build(settings.reward, lent)
    log.info("reward: %s", _shown(report))
    made, reports = _judges(settings, lent) if judges else ({}, {})
    return Objects(found, base, policy, reward, report, made, reports)


def _judges(settings: Settings, lent: RewardInputs) -> tuple[dict[str, Reward], dict[str, dict[str, Any]]]:
    """Judges and their reports by name, without those that cannot be made from what there is."""
    built = {name: build(component, lent) for name, component in settings.evaluation.judges.items()}
    made = {name: judge for name, (judge, _) in built.items() if judge is not None}
    check_best(settings.evaluation.best, made)
    reports = {name: report for name, (_, report) in built.items() if name in made}
    for name, report in reports.items():
        log.info("judge %s: %s", name, _shown(report))
    return made, reports


def _shown(report: dict[str, Any]) -> str:
    return ", ".join(
        f"{key} {value:.3f}" if isinstance(value, float) else f"{key} {value}"
        for key, value in report.items()
        if isinstance(value, float | str)
    )


def base_path(found: Inputs) -> str:
    """The folder or hub id of the base LM, which is pretrained now if the model group says so and it is not there yet."""
    model = found.settings.model
    if model.pretrain is not None:
        return str(pretrained_folder(found.corpus.unsupervised(), model.pretrain, accelerator=found.accelerator))
    assert model.path is not None
    return model.path


def _base(found: Inputs) -> BaseLM:
    settings = found.settings
    model, path = settings.model, base_path(found)
    base = load_base(path, precision=settings.hardware.precision, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if found.accelerator == "cuda":
        base.model.cuda()  # type: ignore[call-arg]
    return base
