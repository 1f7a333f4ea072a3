"""The two phases before training: what a run reads and what that is called (:func:`inputs`), then the objects (:func:`objects`)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grade_lightning.build import build, build_module
from grade_lightning.data.corpus import Corpus, Splits, fingerprint, make_splits
from grade_lightning.data.encoding import encode_splits
from grade_lightning.data.module import PromptDataModule, ReviewDataModule
from grade_lightning.data.own import PromptSplits, load_prompt_splits
from grade_lightning.data.prompts import Prompt
from grade_lightning.evaluation.judges import check_best
from grade_lightning.methods.base import Context
from grade_lightning.models.base import BaseLM, check_model_folder, load_base, load_tokenizer
from grade_lightning.models.cache import files_fingerprint
from grade_lightning.models.policy import Policy
from grade_lightning.models.pretraining import pretrained_folder
from grade_lightning.rewards.base import Reward, RewardInputs
from grade_lightning.rewards.identity import fingerprint_of_reward, fingerprints_of
from grade_lightning.settings import Settings
from grade_lightning.settings.data import DataSettings, PromptDataSettings
from grade_lightning.training.machine import check_machine, check_shape
from grade_lightning.training.module import MethodModule, Plan
from grade_lightning.training.strategy import resolve_accelerator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run reads: reviews or prompts, and the files of the base LM.

    Attributes:
        settings: of the run. accelerator: ``cpu`` or ``cuda``.
    """

    settings: Settings
    accelerator: str

    @cached_property
    def corpus(self) -> Corpus:
        assert isinstance(self.settings.data, DataSettings), "a user's prompts are no reviews"
        return build(self.settings.data.source).load()

    @cached_property
    def splits(self) -> Splits | PromptSplits:
        """Of labelled reviews, or of a user's own prompts."""
        data = self.settings.data
        if isinstance(data, PromptDataSettings):
            return load_prompt_splits(
                data.path, prompt_column=data.prompt_column, validation_path=data.validation_path, test_path=data.test_path,
                hub_split=data.hub_split, hub_config=data.hub_config, revision=data.revision, validation_rows=data.validation_rows,
                test_rows=data.test_rows, shuffle_seed=data.shuffle_seed,
            )  # fmt: skip
        return make_splits(
            self.corpus, reward_rows=data.reward_rows, policy_rows=data.policy_rows, validation_rows=data.validation_rows,
            order=data.order, shuffle_seed=data.shuffle_seed, drop_duplicates=data.drop_duplicates,
        )  # fmt: skip

    @property
    def reviews(self) -> Splits | None:
        """The splits of labelled reviews; None, and nothing is read, where the prompts are a user's own."""
        if isinstance(self.settings.data, PromptDataSettings):
            return None
        assert isinstance(self.splits, Splits)
        return self.splits

    @cached_property
    def own_prompts(self) -> dict[str, list[Prompt]]:
        """A user's own prompts as tokens, by split; only the tokenizer of the model is loaded."""
        data, model = self.settings.data, self.settings.model
        assert isinstance(data, PromptDataSettings)
        assert model.path is not None
        assert isinstance(self.splits, PromptSplits)
        tokenizer = load_tokenizer(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
        return encode_splits(self.splits, tokenizer, max_tokens=data.prompt.max_tokens, truncate=data.truncate)

    @property
    def model_folder(self) -> Path | None:
        """The local folder of the base LM; None where it comes from a hub or is made here."""
        path = self.settings.model.path
        folder = None if path is None else Path(path).expanduser()
        return folder if folder is not None and folder.exists() else None

    @cached_property
    def reward_fingerprint(self) -> str | None:
        """Of what the reward's settings name by a folder or an import path; None where they say all."""
        return fingerprint_of_reward(self.settings.reward.settings)

    @cached_property
    def judge_fingerprints(self) -> dict[str, str]:
        """The same of judges, by name; those whose settings say all are left out."""
        return fingerprints_of(self.settings.evaluation.judges)

    def named_by_folder(self) -> dict[str, Any]:
        """Fingerprints of what the settings name by a folder of this machine, whose contents their hash does not know."""
        found: dict[str, Any] = {}
        if self.model_folder is not None:
            found["model_fingerprint"] = files_fingerprint(self.model_folder)
        if self.reward_fingerprint is not None:
            found["reward_fingerprint"] = self.reward_fingerprint
        if self.judge_fingerprints:
            found["judge_fingerprints"] = self.judge_fingerprints
        data = self.settings.data
        named = (getattr(data, key, None) for key in ("path", "validation_path", "test_path"))
        if any(path is not None and Path(path).expanduser().exists() for path in named):
            found["splits"] = self.splits.fingerprints
        return found

    def check(self, *, prompts: bool = True) -> None:
        """Raise ValueError where this machine, the named model and the settings do not go together; no weights are loaded.

        Args:
            prompts: read and check a user's own prompts as well.
        """
        check_machine(self.settings, self.accelerator)
        if self.model_folder is not None:
            check_model_folder(self.model_folder)
        check_shape(self.settings, self.accelerator)
        _ = self.reward_fingerprint, self.judge_fingerprints  # a function or folder that is not there is refused now
        if prompts and self.reviews is None:
            counts = {name: len(own) for name, own in self.own_prompts.items()}
            log.info("prompts: %s", ", ".join(f"{count:,} {name}" for name, count in counts.items()))

    def fingerprints(self, base: BaseLM) -> dict[str, Any]:
        """Of everything that was read."""
        reward: dict[str, Any] = {} if self.reward_fingerprint is None else {"reward": self.reward_fingerprint}
        reward |= {"judges": self.judge_fingerprints} if self.judge_fingerprints else {}
        if self.reviews is None:
            return {**reward, "base LM": base.fingerprint, "prompts": self.splits.fingerprints}
        reviews = {**self.reviews.fingerprints, "unused": fingerprint(self.reviews.unused)}
        return {**reward, "base LM": base.fingerprint, "reviews": reviews}


def inputs(settings: Settings) -> Inputs:
    """The first phase.  Nothing is read before it is asked for."""
    return Inputs(settings, resolve_accelerator(settings.hardware.accelerator))


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


def objects(found: Inputs, *, judges: bool, check: Callable[[dict[str, Any]], None] | None = None) -> Objects:
    """The second phase: load the base LM (pretraining it if the model group says so), and train the reward head, both from the cache
    where they are there.

    Args:
        judges: make the judges too.
        check: is given the fingerprints of base LM and data before anything is made with both, and may raise.

    Raises:
        ValueError: any of it cannot be had; the message says what to do.
    """
    settings = found.settings
    reviews, base = found.reviews, _base(found)
    if check is not None:
        check(found.fingerprints(base))
    lora = settings.model.lora
    policy = Policy(
        base, r=lora.r, alpha=lora.alpha, dropout=lora.dropout, target_modules=lora.target_modules, seed=settings.seed,
        checkpointing=settings.hardware.activation_checkpointing,
    )  # fmt: skip
    settings.rollout.check(policy.vocab_size)
    clean_html = isinstance(settings.data, DataSettings) and settings.data.clean_html
    lent = RewardInputs(base, policy, reviews, clean_html, settings.hardware.precision)
    reward, report = build(settings.reward, lent)
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


def _base(found: Inputs) -> BaseLM:
    settings = found.settings
    model, path = settings.model, settings.model.path
    if model.pretrain is not None:
        path = str(pretrained_folder(found.corpus.unsupervised(), model.pretrain, accelerator=found.accelerator))
    assert path is not None
    base = load_base(path, precision=settings.hardware.precision, revision=model.revision, trust_remote_code=model.trust_remote_code)
    if found.accelerator == "cuda":
        base.model.cuda()  # type: ignore[call-arg]
    return base
