"""Pretrain a small base LM on a corpus' unsupervised reviews.

``python -m grade_lightning.pretrain data=parquet data.path=FOLDER pretrain=imdb out=FOLDER``
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

import hydra
from omegaconf import DictConfig

from grade_lightning.compose import CONFIG_DIR, errors_as_messages, resolved
from grade_lightning.settings.parse import parse_pretraining
from grade_lightning.threads import wait_briefly

log = logging.getLogger(__name__)


def execute(cfg: DictConfig) -> dict[str, float]:
    """Train, save to ``out`` and report held-out perplexity."""
    settings = parse_pretraining(resolved(cfg))
    from grade_lightning.build import build
    from grade_lightning.models.pretraining import pretrain
    from grade_lightning.records.files import new_folder
    from grade_lightning.training.machine import check_device
    from grade_lightning.training.process import prepare_process

    prepare_process()
    check_device(settings.hardware.accelerator, settings.hardware.precision)
    out = Path(settings.out)
    if out.exists() and any(out.iterdir()):
        raise ValueError(f"out={out} is not empty: name a new folder")
    reviews = build(settings.data.source).load().unsupervised()
    hardware = settings.hardware
    try:
        with new_folder(out.absolute()) as folder:
            report = pretrain(reviews, settings.pretrain, folder, accelerator=hardware.accelerator, precision=hardware.precision)
    except OSError as error:
        raise ValueError(f"out={out} cannot be written ({error}): name another folder") from error
    log.info(
        "perplexity %.2f on held-out reviews after %s tokens in %.0f s; use it with model=local model.path=%s",
        report["perplexity"], f"{report['tokens']:,}", report["seconds"], out,
    )  # fmt: skip
    return report


@hydra.main(version_base="1.3", config_path=CONFIG_DIR, config_name="pretrain")
def _command(cfg: DictConfig) -> float:
    """Returns held-out perplexity, for searches."""
    with errors_as_messages():
        return execute(cfg)["perplexity"]


def main() -> float | None:
    """The command line; see the module's docstring."""
    if any(argument in ("-h", "--help", "help") for argument in sys.argv[1:]):
        from grade_lightning.settings.describe import pretraining_help

        print(pretraining_help())
        return None
    wait_briefly()
    return _command()


if __name__ == "__main__":
    main()
