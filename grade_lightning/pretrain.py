"""Pretrain a small base LM on a corpus' unsupervised reviews.

``python -m grade_lightning.pretrain data=parquet data.path=FOLDER pretrain=imdb out=FOLDER``
"""

from __future__ import annotations

import logging
from pathlib import Path

import hydra
from omegaconf import DictConfig

from grade_lightning import checks
from grade_lightning.compose import CONFIG_DIR, build, errors_as_messages
from grade_lightning.training.process import prepare_process

log = logging.getLogger(__name__)


def execute(cfg: DictConfig) -> dict[str, float]:
    """Train, save to ``out`` and report held-out perplexity."""
    from grade_lightning.models.pretraining import pretrain

    prepare_process()
    checks.check_hardware(cfg.hardware.accelerator, cfg.hardware.precision)
    out = Path(cfg.out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={out} is not empty: name a new folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error}): name another folder") from error
    reviews = build(cfg.data.source).load().unsupervised()
    report = pretrain(reviews, build(cfg.pretrain), out, accelerator=cfg.hardware.accelerator)
    log.info(
        "perplexity %.2f on held-out reviews after %s tokens in %.0f s; use it with model=local model.path=%s",
        report["perplexity"], f"{report['tokens']:,}", report["seconds"], out,
    )  # fmt: skip
    return report


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="pretrain")
def main(cfg: DictConfig) -> float:
    """Returns held-out perplexity, for searches."""
    with errors_as_messages():
        return execute(cfg)["perplexity"]


if __name__ == "__main__":
    main()
