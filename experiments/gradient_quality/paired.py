"""Two estimators of a gradient study against each other, on the same draws of its prompts.

``python -m experiments.gradient_quality.paired STUDY FIRST SECOND [RECORD]`` (STUDY: its ``out`` folder with the units, the others as
named in ``methods=``) prints, for FIRST relative to SECOND, the ratio of their NVR a rollout, the ratio of rho_16 and the difference of
their cosines, with 95% bootstrap intervals over prompts.  Both see the same completions, so most of the noise cancels.  With RECORD,
such as no_hop_over_all/initial, the numbers are kept under that name in ``gradients.parquet``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

from grade_lightning.records.leaves import add_leaves
from grade_lightning.records.text import json_text
from grade_lightning.study.moments import Inner, Units, bootstrap
from grade_lightning.study.plan import folder_of

REFERENCE = "rloo"


def _units(folder: Path, per_prompt: int) -> Units:
    state = json.loads((folder / "progress.json").read_text())
    squares, tokens = (np.asarray([row[name] for row in state["rows"]]) for name in ("squares", "tokens"))
    sketches = np.load(folder / "sketches.npy", allow_pickle=False)[: state["done"]]
    return Units(sketches, squares, state["settings"]["rollouts"], float(tokens.mean()), 0.0, per_prompt)


def paired(study: Path, first: str, second: str, *, group: int = 4) -> dict[str, list[float]]:
    """Value, lower and upper end of each comparison; ``group``: completions a prompt of the reference."""
    reference = _units(study / REFERENCE, group)
    one, other = (Inner(_units(study / folder_of(spec), 1), reference) for spec in (first, second))

    def compared(weight: np.ndarray) -> dict[str, float]:
        a, b = one.numbers(weight), other.numbers(weight)
        return {"nvr_ratio": a["nvr_rollout"] / b["nvr_rollout"], "rho_16_ratio": a["rho_16"] / b["rho_16"],
                "cosine_difference": a["cosine"] - b["cosine"]}  # fmt: skip

    prompts = len(reference.squares)
    intervals = bootstrap(compared, prompts)
    return {name: [value, *intervals[name]] for name, value in compared(np.ones(prompts)).items()}


if __name__ == "__main__":
    found = paired(Path(sys.argv[1]), *sys.argv[2:4])
    print(json_text(found))
    for record in sys.argv[4:]:
        add_leaves(Path(__file__).parent / "gradients.parquet", record, found)
