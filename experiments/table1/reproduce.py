"""The sweep of Table 1 and its table: what ``make reproduce-table1`` runs.

``--keep`` adds the sweep's runs to ``runs.parquet`` beside this file, ``--report`` runs nothing and makes the table from there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))  # called by its path, not as a module
from experiments.queue import OUTPUTS, REPOSITORY  # noqa: E402
from experiments.reports import refresh  # noqa: E402
from grade_lightning.records.from_folder import read_folder  # noqa: E402
from grade_lightning.records.study_table import add  # noqa: E402

RECORDS = HERE / "runs.parquet"
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


def keep(out: Path, chosen: argparse.Namespace) -> None:
    """Add the finished runs of a sweep to the records, without this machine's folders."""
    hidden = {str(chosen.data or ""): "DATA_FOLDER", str(chosen.model or ""): "MODEL_FOLDER", str(REPOSITORY): "."}

    def without_paths(text: str) -> str:
        for path in sorted(filter(None, hidden), key=len, reverse=True):
            text = text.replace(path, hidden[path])
        return text

    for results in sorted(out.glob("*/results.json")):
        add(RECORDS, read_folder(results.parent, chosen.scale, results.parent.name, without_paths=without_paths))


def show(scale: str) -> int:
    """The report of the kept runs of a scale, and the table that the README shows."""
    from grade_lightning.reporting.output import report

    out = OUTPUTS / "table1" / scale
    for warning in report(RECORDS, out, part=scale):
        print(warning, file=sys.stderr)
    refresh(out, HERE / scale, ("table1.md",))
    print(out / "report.html")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", choices=["paper", "small"], default="paper")
    parser.add_argument("--data", help="folder with IMDB as Parquet instead of the scale's own data")
    parser.add_argument("--model", help="folder of a model instead of the scale's own")
    parser.add_argument("--seeds", default="1", help="comma-separated")
    parser.add_argument("--out", type=Path, help="folder of the sweep (default: multirun/table1-SCALE)")
    parser.add_argument("--keep", action="store_true", help="add the finished runs to the records")
    parser.add_argument("--report", action="store_true", help="run nothing: the report of the kept runs")
    parser.add_argument("overrides", nargs="*", help="further Hydra overrides for every run")
    chosen = parser.parse_args()
    if chosen.report:
        return show(chosen.scale)
    if chosen.scale == "paper" and not (chosen.data and chosen.model):
        check_full_scale()
    out = chosen.out or Path("multirun") / f"table1-{chosen.scale}"
    sweep = [sys.executable, "-m", "grade_lightning.run", "-m", *overrides(chosen), f"hydra.sweep.dir={out}"]
    print(" ".join(sweep), flush=True)
    failed = subprocess.run(sweep, check=False).returncode
    if chosen.keep:
        keep(out, chosen)
    made = subprocess.run([sys.executable, "-m", "grade_lightning.report", str(out)], check=False).returncode
    return failed or made


if __name__ == "__main__":
    sys.exit(main())
