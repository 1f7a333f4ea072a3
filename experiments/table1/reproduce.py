"""The sweep of Table 1 and its table: what ``make reproduce-table1`` runs."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

METHODS = "grade,grade_ste,ppo,reinforce"
SMALL = "make reproduce-table1 SCALE=small"


def check_full_scale() -> None:
    """Stop at once where the paper's own setting cannot run."""
    import torch
    from huggingface_hub import HfApi

    if not torch.cuda.is_available():
        sys.exit(f"Table 1 at full scale needs a CUDA GPU with bf16 and torch sees none. On a CPU: {SMALL}")
    try:
        HfApi().model_info("Qwen/Qwen3-4B", timeout=10)
    except Exception as error:  # noqa: BLE001  whatever the network stack raises, the reason is shown
        local = "make reproduce-table1 DATA=FOLDER MODEL=FOLDER"
        sys.exit(f"the hub cannot be reached ({type(error).__name__}: {error}). With local folders: {local}; or {SMALL}")


def overrides(chosen: argparse.Namespace) -> list[str]:
    found = [f"experiment=table1_{chosen.scale}", f"method={METHODS}", f"seed={chosen.seeds}"]
    if chosen.data:
        found += ["data=parquet", f"data.path={chosen.data}"]
    if chosen.model:
        # At full scale the folder replaces the hub's weights and nothing else: the paper's rates stay.
        found += [f"model.path={chosen.model}"] if chosen.scale == "paper" else ["model=local", f"model.path={chosen.model}"]
    return found + chosen.overrides


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["paper", "small"], default="paper")
    parser.add_argument("--data", help="folder with IMDB as Parquet instead of the scale's own data")
    parser.add_argument("--model", help="folder of a model instead of the scale's own")
    parser.add_argument("--seeds", default="1", help="comma-separated")
    parser.add_argument("--out", type=Path, help="folder of the sweep (default: multirun/table1-SCALE)")
    parser.add_argument("overrides", nargs="*", help="further Hydra overrides for every run")
    chosen = parser.parse_args()
    if chosen.scale == "paper" and not (chosen.data and chosen.model):
        check_full_scale()
    out = chosen.out or Path("multirun") / f"table1-{chosen.scale}"
    sweep = [sys.executable, "-m", "grade_lightning.run", "-m", *overrides(chosen), f"hydra.sweep.dir={out}"]
    print(" ".join(sweep), flush=True)
    failed = subprocess.run(sweep, check=False).returncode
    made = subprocess.run([sys.executable, "-m", "grade_lightning.report", str(out)], check=False).returncode
    return failed or made


if __name__ == "__main__":
    sys.exit(main())
