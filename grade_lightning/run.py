"""Run one experiment: ``python -m grade_lightning.run method=grade_ste`` (``--help`` lists the groups)."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import hydra
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from grade_lightning import checks
from grade_lightning.config import CONFIG_DIR, build, config_hash, errors_as_messages
from grade_lightning.process import command_started, prepare_process

log = logging.getLogger(__name__)


def _check(cfg: DictConfig) -> None:
    from grade_lightning.methods.base import check_kl_reduction

    check_kl_reduction(cfg.protocol.kl_reduction)
    checks.check_hardware(cfg.hardware.accelerator, cfg.hardware.precision)
    checks.check_run(
        max_steps=cfg.max_steps, effective_batch_size=cfg.effective_batch_size,
        grad_accumulation=cfg.hardware.grad_accumulation, validate_every=cfg.evaluation.validate_every,
    )  # fmt: skip
    evaluation = cfg.evaluation
    checks.check_evaluation(batch_size=evaluation.batch_size, val_prompts=evaluation.val_prompts, test_prompts=evaluation.test_prompts)
    if cfg.run.resume is not None:
        raise ValueError("run.resume is not available yet: start the run again without it")
    if cfg.model.pretrain is not None:
        checks.check_pretrained_vocabulary(cfg.model.pretrain.vocab_size, cfg.rollout.top_k)
    elif Path(cfg.model.path).expanduser().exists():
        from grade_lightning.models.base import check_model_folder

        check_model_folder(cfg.model.path)


def _splits(cfg: DictConfig) -> tuple[Any, Any]:
    from grade_lightning.data.corpus import make_splits

    corpus = build(cfg.data.source).load()
    keys = ("reward_rows", "policy_rows", "validation_rows", "order", "shuffle_seed", "drop_duplicates")
    return corpus, make_splits(corpus, **{key: cfg.data[key] for key in keys})


def _base(cfg: DictConfig, corpus: Any) -> Any:
    from grade_lightning.models.base import load_base
    from grade_lightning.models.pretraining import pretrained_folder

    path = cfg.model.path
    if cfg.model.pretrain is not None:
        path = str(pretrained_folder(corpus.unsupervised(), build(cfg.model.pretrain), accelerator=cfg.hardware.accelerator))
    options = {"revision": cfg.model.revision, "trust_remote_code": cfg.model.trust_remote_code}
    base = load_base(path, precision=cfg.hardware.precision, **options)
    if cfg.hardware.accelerator == "cuda":
        base.model.cuda()  # type: ignore[call-arg]
    return base


def _shared(cfg: DictConfig, policy: Any, reward: Any) -> Any:
    from grade_lightning.methods.base import Shared
    from grade_lightning.rollout.types import RolloutSettings

    optimizer: dict[str, Any] = {**cfg.optimizer, "betas": tuple(cfg.optimizer.betas)}
    return Shared(
        policy=policy, reward=reward, rollout=RolloutSettings(**cfg.rollout), seed=cfg.seed, evaluation_seed=cfg.evaluation.seed,
        grad_accumulation=cfg.hardware.grad_accumulation, kl_coef=cfg.kl_coef, kl_reduction=cfg.protocol.kl_reduction,
        **optimizer,
    )  # fmt: skip


def _data_module(cfg: DictConfig, splits: Any, tokenizer: Any) -> Any:
    from grade_lightning.data.module import IMDBDataModule

    return IMDBDataModule(
        splits, tokenizer, effective_batch_size=cfg.effective_batch_size, seed=cfg.seed, subset_seed=cfg.evaluation.seed,
        evaluation_batch_size=cfg.evaluation.batch_size, val_prompts=cfg.evaluation.val_prompts,
        test_prompts=cfg.evaluation.test_prompts, clean_html=cfg.data.clean_html, **cfg.data.prompt,
    )  # fmt: skip


def _loggers(cfg: DictConfig, folder: Path, identity: str) -> list[Logger]:
    if cfg.logger.wandb is None:
        return []
    from grade_lightning.loggers import wandb_logger

    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    name = f"{cfg.names.method}-seed{cfg.seed}-{identity}"
    return [wandb_logger(folder, name=name, config=resolved, **cfg.logger.wandb)]


def execute(cfg: DictConfig) -> dict[str, Any]:
    """Check, prepare (base LM, reward head), fit, test once, record.  -> what ``results.json`` holds."""
    from grade_lightning.experiment import Experiment
    from grade_lightning.loggers import finish
    from grade_lightning.models.policy import Policy
    from grade_lightning.record import RunFolder, environment
    from grade_lightning.rollout.types import RolloutSettings
    from grade_lightning.summary import print_summary

    start = command_started()
    prepare_process()
    _check(cfg)
    folder, identity = RunFolder(cfg.run.dir), config_hash(cfg)
    if any((folder.path / name).exists() for name in ("metrics.csv", "samples.jsonl", "results.json")):
        raise ValueError(f"{folder.path} already holds a run: set run.dir to a new folder")
    folder.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    folder.write_json("environment.json", environment())
    corpus, splits = _splits(cfg)
    base = _base(cfg, corpus)
    policy = Policy(base, seed=cfg.seed, **cfg.model.lora)
    RolloutSettings(**cfg.rollout).check(policy.vocab_size)
    reward, reward_report = build(cfg.reward, base, policy, splits, clean_html=cfg.data.clean_html)
    log.info("reward head: %s", ", ".join(f"{k} {v:.3f}" for k, v in reward_report.items() if isinstance(v, float)))
    method = build(cfg.method, _shared(cfg, policy, reward))
    description = {
        **dict(cfg.names), "seed": cfg.seed, "model_name": base.name, "model_fingerprint": base.fingerprint, "config_hash": identity,
        "reward_head": reward_report, "splits": splits.fingerprints, "duplicates": splits.duplicates,
    }  # fmt: skip
    loggers = _loggers(cfg, folder.path, identity)
    try:
        results = Experiment(
            method, _data_module(cfg, splits, base.tokenizer), folder, description, max_steps=cfg.max_steps, loggers=loggers,
            validate_every=cfg.evaluation.validate_every, test=cfg.evaluation.test, samples=cfg.evaluation.samples,
            accelerator=cfg.hardware.accelerator, seconds={"prepare": time.perf_counter() - start}, started=start,
        ).run()  # fmt: skip
    finally:
        finish(loggers)
    print_summary(results, folder.path)
    return results


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="config")
def main(cfg: DictConfig) -> float:
    """Returns validation reward at the last step, for searches; never the test reward."""
    with errors_as_messages():
        return float(execute(cfg)["validation"][-1]["reward_mean"])


if __name__ == "__main__":
    main()
