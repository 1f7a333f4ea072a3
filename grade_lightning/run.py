"""Run one experiment: ``python -m grade_lightning.run method=grade_ste`` (``--help`` lists the groups)."""

from __future__ import annotations

import logging
import os
import secrets
import time
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Any

import hydra
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import Logger
from omegaconf import DictConfig, OmegaConf

from grade_lightning import checks
from grade_lightning.compose import CONFIG_DIR, build, config_hash, errors_as_messages
from grade_lightning.records.folder import RunFolder
from grade_lightning.training.environment import environment
from grade_lightning.training.process import command_started, prepare_process
from grade_lightning.training.strategy import process_of_torchrun, resolve_accelerator, trainer_options, use_own_device
from grade_lightning.training.sweep import FAILED, sweep_group

log = logging.getLogger(__name__)


def _check(cfg: DictConfig, accelerator: str) -> None:
    from grade_lightning.methods.choices import CHOICES, check_choices, check_kl
    from grade_lightning.methods.hybrid import CHUNKS
    from grade_lightning.methods.ppo import PPOSettings
    from grade_lightning.setup import completions_per_prompt

    check_kl(cfg.protocol.kl_in, cfg.protocol.kl_estimator, cfg.protocol.kl_alignment, relaxed="temperature" in cfg.method)
    check_choices(optimizer=cfg.optimizer.name, **{key: cfg.protocol[key] for key in CHOICES if key != "optimizer"})
    if str(cfg.method._target_).endswith(".PPO"):
        PPOSettings(**{field.name: cfg.method[field.name] for field in fields(PPOSettings)}).check(cfg.optimizer.name)
    checks.check_hardware(accelerator, cfg.hardware.precision)
    checks.check_processes(process_of_torchrun()[1], distributed=cfg.hardware.distributed)
    checks.check_run(
        max_steps=cfg.max_steps, effective_batch_size=cfg.effective_batch_size,
        grad_accumulation=cfg.hardware.grad_accumulation, validate_every=cfg.evaluation.validate_every,
        checkpoint_every=cfg.run.checkpoint_every, completions_per_prompt=completions_per_prompt(cfg),
        chunks=CHUNKS if cfg.names.method == "hybrid" else 1, processes=process_of_torchrun()[1],
    )  # fmt: skip
    evaluation = cfg.evaluation
    checks.check_evaluation(batch_size=evaluation.batch_size, val_prompts=evaluation.val_prompts, test_prompts=evaluation.test_prompts)
    checks.check_gradient_cosine(
        evaluation.gradient_cosine_every, relaxed="temperature" in cfg.method and cfg.names.method != "hybrid",
        processes=process_of_torchrun()[1],
    )  # fmt: skip
    if cfg.model.pretrain is not None:
        checks.check_pretrained_vocabulary(cfg.model.pretrain.vocab_size, cfg.rollout.top_k)
    elif Path(cfg.model.path).expanduser().exists():
        from grade_lightning.models.base import check_model_folder

        check_model_folder(cfg.model.path)
    _check_memory(cfg, accelerator)


def _check_memory(cfg: DictConfig, accelerator: str) -> None:
    from grade_lightning.training.memory import check_memory, shape_of_model

    if cfg.model.pretrain is not None:
        return  # as small as the machine it is pretrained on needs it
    shape = shape_of_model(cfg.model.path, revision=cfg.model.revision, trust_remote_code=cfg.model.trust_remote_code)
    if shape is not None:
        check_memory(
            shape, rows=-(-cfg.effective_batch_size // process_of_torchrun()[1]), accumulation=cfg.hardware.grad_accumulation,
            prompt_tokens=cfg.data.prompt.max_tokens, new_tokens=cfg.max_new_tokens, precision=cfg.hardware.precision,
            lora_rank=cfg.model.lora.r, graphs=2 if "temperature" in cfg.method else 1, accelerator=accelerator,
            checkpointing=cfg.hardware.activation_checkpointing,
        )  # fmt: skip


def _loggers(cfg: DictConfig, folder: RunFolder, run_id: str) -> list[Logger]:
    if cfg.logger.wandb is None or not folder.writes:
        return []
    from grade_lightning.training.loggers import wandb_logger

    resolved = OmegaConf.to_container(cfg, resolve=True, throw_on_missing=False)
    options = {**cfg.logger.wandb, "group": cfg.logger.wandb.group or sweep_group()}
    return [wandb_logger(folder.path, name=f"{cfg.names.method}-seed{cfg.seed}-{run_id}", run_id=run_id, config=resolved, **options)]


def _callbacks(cfg: DictConfig) -> list[Callback]:
    from grade_lightning.study.alarm import GradientCosine

    every = cfg.evaluation.gradient_cosine_every
    return [GradientCosine(every)] if every else []


def _open(cfg: DictConfig, identity: str) -> tuple[RunFolder, dict[str, Any], bool]:
    """The run folder, its environment, and whether training goes on from a checkpoint there."""
    folder = RunFolder(cfg.run.resume or cfg.run.dir, writes=process_of_torchrun()[0] == 0)
    if cfg.run.resume is not None and not (folder.path / "environment.json").exists():
        raise ValueError(f"run.resume={cfg.run.resume} holds no run: give the folder of an unfinished run, or leave it out")
    started = folder.started(identity)
    resume = started is not None and folder.checkpoint.exists()
    if started is not None and resume:
        log.info("going on with the unfinished run in %s", folder.path)
        return folder, started, True
    folder.rewind(0)
    began = {**environment(), "config_hash": identity, "run_id": f"{identity}-{secrets.token_hex(3)}"}
    folder.write_text("config.yaml", OmegaConf.to_yaml(cfg, resolve=True))
    folder.write_json("environment.json", began)
    return folder, began, False


def _results_of_finished(cfg: DictConfig, identity: str) -> dict[str, Any] | None:
    path = Path(cfg.run.resume or cfg.run.dir)
    results = RunFolder(path, writes=False).finished(identity)
    if results is not None:
        _check_same_inputs(path, cfg, results)
        log.info("%s already holds this very run, finished: nothing to do", path)
    return results


def _check_same_inputs(path: Path, cfg: DictConfig, results: dict[str, Any]) -> None:
    """The hash knows folders by their last part only: a finished run of another model or of other reviews of that name is not this run.

    Of the reviews, the rows of the four splits are compared; a model pretrained here is not.
    """
    model, data = (Path(group.get("path") or "").expanduser() for group in (cfg.model, cfg.data))
    if cfg.model.pretrain is None and (model / "config.json").exists():
        from grade_lightning.models.cache import files_fingerprint

        if files_fingerprint(model) != results["model_fingerprint"]:
            raise ValueError(f"{path} holds a finished run of another model whose folder is also named {model.name}: set run.dir")
    if cfg.data.get("path") and data.is_dir():
        from grade_lightning.setup import splits_of

        if splits_of(cfg)[1].fingerprints != results["splits"]:
            raise ValueError(f"{path} holds a finished run of other reviews whose folder is also named {data.name}: set run.dir")


def execute(cfg: DictConfig) -> dict[str, Any]:
    """Check, prepare (base LM, reward head), fit, test once, record.  -> what ``results.json`` holds."""
    identity = config_hash(cfg)
    finished = _results_of_finished(cfg, identity)
    return finished if finished is not None else _execute(cfg, identity)


def _execute(cfg: DictConfig, identity: str) -> dict[str, Any]:
    from grade_lightning.setup import data_module, prepare, shared
    from grade_lightning.training.experiment import Experiment
    from grade_lightning.training.loggers import finish
    from grade_lightning.training.summary import print_summary

    start = command_started()
    prepare_process()
    accelerator = resolve_accelerator(cfg.hardware.accelerator)
    use_own_device(accelerator)
    _check(cfg, accelerator)
    folder, began, resume = _open(cfg, identity)
    prepared = prepare(cfg, accelerator, judge=cfg.evaluation.test, check=partial(folder.begin, began, again=resume))
    base, splits, judge = prepared.base, prepared.splits, prepared.judge
    method = build(cfg.method, shared(cfg, prepared))
    description = {
        **dict(cfg.names), "seed": cfg.seed, "model_name": base.name, "model_fingerprint": base.fingerprint, "config_hash": identity,
        "variant_hash": config_hash(cfg, without=("seed",)),
        "reward_head": prepared.reward_report,
        "judge": None if judge is None else judge.report, "splits": splits.fingerprints, "duplicates": splits.duplicates,
    }  # fmt: skip
    loggers = _loggers(cfg, folder, began["run_id"])
    try:
        results = Experiment(
            method, data_module(cfg, prepared), folder, description, max_steps=cfg.max_steps, loggers=loggers,
            callbacks=_callbacks(cfg),
            validate_every=cfg.evaluation.validate_every, test=cfg.evaluation.test, samples=cfg.evaluation.samples,
            checkpoint_every=cfg.run.checkpoint_every, resume=resume,
            trainer_options=trainer_options(accelerator, distributed=cfg.hardware.distributed),
            seconds={"prepare": time.perf_counter() - start}, started=start,
        ).run()  # fmt: skip
    finally:
        finish(loggers)
    if folder.writes:
        print_summary(results, folder.path)
    return results


def _note_failure(cfg: DictConfig, error: Exception) -> None:
    """Leave the reason in the run folder, for the report at the end of a sweep."""
    folder = Path(cfg.run.dir)
    if folder.is_dir() and os.access(folder, os.W_OK):
        (folder / FAILED).write_text(f"{type(error).__name__}: {error}\n")


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="config")
def main(cfg: DictConfig) -> float:
    """Returns validation reward at the last step, for searches; never the test reward."""
    with errors_as_messages():
        try:
            return float(execute(cfg)["validation"][-1]["reward_mean"])
        except Exception as error:
            _note_failure(cfg, error)
            raise


if __name__ == "__main__":
    main()
