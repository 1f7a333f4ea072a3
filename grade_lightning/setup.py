"""From a resolved configuration to the objects that every entry needs: reviews, base LM, policy, reward, judge."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from grade_lightning.compose import build
from grade_lightning.data.corpus import Corpus, Splits, fingerprint, make_splits
from grade_lightning.data.module import IMDBDataModule
from grade_lightning.methods.base import Shared
from grade_lightning.models.base import BaseLM, load_base
from grade_lightning.models.policy import Policy
from grade_lightning.models.pretraining import pretrained_folder
from grade_lightning.rewards.classifier import Reward
from grade_lightning.rewards.judge import Judge, train_judge
from grade_lightning.rollout.types import RolloutSettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Prepared:
    """What a configuration describes, ready to use.

    Attributes:
        splits: the four splits and the rows that none uses.
        base: the frozen base LM.
        policy: base + LoRA.
        reward, reward_report: the reward and what is known of its accuracy.
        judge: None where it was not asked for or cannot be trained.
    """

    splits: Splits
    base: BaseLM
    policy: Policy
    reward: Reward
    reward_report: dict[str, Any]
    judge: Judge | None


def prepare(cfg: DictConfig, accelerator: str, *, judge: bool, check: Callable[[dict[str, Any]], None] | None = None) -> Prepared:
    """Load the reviews and the base LM (pretraining it if the model group says so), and train the reward head, both from the cache
    where they are there.

    Args:
        check: is given the fingerprints of base LM and reviews before anything is made with both, and may raise.

    Raises:
        ValueError: any of it cannot be had; the message says what to do.
    """
    corpus, splits = splits_of(cfg)
    base = _base(cfg, corpus, accelerator)
    if check is not None:
        check({"base LM": base.fingerprint, "reviews": {**splits.fingerprints, "unused": fingerprint(splits.unused)}})
    policy = Policy(base, seed=cfg.seed, checkpointing=cfg.hardware.activation_checkpointing, **cfg.model.lora)
    RolloutSettings(**cfg.rollout).check(policy.vocab_size)
    reward, report = build(cfg.reward, base, policy, splits, clean_html=cfg.data.clean_html)
    log.info("reward head: %s", _shown(report))
    found = train_judge(splits.unused, clean_html=cfg.data.clean_html) if judge else None
    if found is not None:
        log.info("independent judge: %s", _shown(found.report))
    return Prepared(splits, base, policy, reward, report, found)


def _shown(report: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value:.3f}" for key, value in report.items() if isinstance(value, float))


def splits_of(cfg: DictConfig) -> tuple[Corpus, Splits]:
    """The reviews that a configuration names, whole and split."""
    corpus = build(cfg.data.source).load()
    keys = ("reward_rows", "policy_rows", "validation_rows", "order", "shuffle_seed", "drop_duplicates")
    return corpus, make_splits(corpus, **{key: cfg.data[key] for key in keys})


def _base(cfg: DictConfig, corpus: Corpus, accelerator: str) -> BaseLM:
    path = cfg.model.path
    if cfg.model.pretrain is not None:
        path = str(pretrained_folder(corpus.unsupervised(), build(cfg.model.pretrain), accelerator=accelerator))
    options = {"revision": cfg.model.revision, "trust_remote_code": cfg.model.trust_remote_code}
    base = load_base(path, precision=cfg.hardware.precision, **options)
    if accelerator == "cuda":
        base.model.cuda()  # type: ignore[call-arg]
    return base


def shared(cfg: DictConfig, prepared: Prepared) -> Shared:
    """What the configuration gives to every method."""
    optimizer: dict[str, Any] = {**cfg.optimizer, "betas": tuple(cfg.optimizer.betas)}
    optimizer["optimizer"] = optimizer.pop("name")
    keys = ("kl_reduction", "kl_in", "kl_estimator", "kl_alignment", "logprobs", "dropout_in_rollouts")
    return Shared(
        policy=prepared.policy, reward=prepared.reward, judge=prepared.judge, rollout=RolloutSettings(**cfg.rollout), seed=cfg.seed,
        evaluation_seed=cfg.evaluation.seed, evaluation_rollout=evaluation_rollout(cfg),
        grad_accumulation=cfg.hardware.grad_accumulation, kl_coef=cfg.kl_coef,
        **{key: cfg.protocol[key] for key in keys}, **optimizer,
    )  # fmt: skip


def evaluation_rollout(cfg: DictConfig) -> RolloutSettings:
    """How evaluation samples: the lengths and the cache of training, the evaluation's own decoding."""
    lengths = {key: cfg.rollout[key] for key in ("max_new_tokens", "min_new_tokens", "cache") if key in cfg.rollout}
    return RolloutSettings(**lengths, **cfg.evaluation.sampling)


def completions_per_prompt(cfg: DictConfig) -> int:
    """How often each prompt stands in an effective batch of the chosen method."""
    return int(cfg.method.get("completions_per_prompt", 1))


def data_module(cfg: DictConfig, prepared: Prepared) -> IMDBDataModule:
    """Prompts of policy, validation and test."""
    return IMDBDataModule(
        prepared.splits, prepared.base.tokenizer, effective_batch_size=cfg.effective_batch_size // completions_per_prompt(cfg),
        seed=cfg.seed, subset_seed=cfg.evaluation.subset_seed, evaluation_batch_size=cfg.evaluation.batch_size,
        val_prompts=cfg.evaluation.val_prompts, test_prompts=cfg.evaluation.test_prompts,
        clean_html=cfg.data.clean_html, **cfg.data.prompt,
    )  # fmt: skip
