"""How often ``evaluation.gradient_cosine_every`` warns, right or wrong.

Sequences of measurements are drawn from a gradient study's units of 4 completions, as many as the alarm uses, and go through the
alarm's own arithmetic.  ``python -m experiments.gradient_quality.alarm UNBIASED BIASED`` prints what it finds in two folders of units,
``python -m experiments.gradient_quality.study --parts alarm`` draws the units too.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from grade_lightning.records.text import json_text
from grade_lightning.study.alarm import GradientCosine

TRIALS, MEASUREMENTS = 400, 12


def alarm_rates(unbiased: Path, biased: Path, *, seed: int = 0) -> dict[str, list[float]]:
    """Shares of sequences whose n-th measurement warns or says nothing.

    ``wrong`` is the share that warns where the straight-through gradient is turned round, so that it points the wrong way as far as it
    now points the right way: all inner products change sign, so it is the share that now says something above 0.

    Args:
        unbiased, biased: folders of both estimators' units, on the same completions.
    """
    # [P, M, m] sketches, whose inner products are those of the gradients on average, with an error of 1 / sqrt(m).
    g, h = (torch.from_numpy(np.load(folder / "sketches.npy", allow_pickle=False)) for folder in (unbiased, biased))
    generator, (prompts, draws) = np.random.default_rng(seed), g.shape[:2]
    cosines = np.empty((TRIALS, MEASUREMENTS))
    for trial in range(TRIALS):
        alarm = GradientCosine(1)
        for measurement in range(MEASUREMENTS):
            rows = torch.from_numpy(generator.permutation(prompts)[: alarm.prompts])
            draw = torch.from_numpy(generator.integers(draws, size=len(rows)))
            cosines[trial, measurement] = alarm.add(g[rows, draw], h[rows, draw])
    shares = {"false": cosines < 0, "wrong": cosines > 0, "silent": np.isnan(cosines)}
    return {name: share.mean(axis=0).tolist() for name, share in shares.items()}


if __name__ == "__main__":
    print(json_text(alarm_rates(Path(sys.argv[1]), Path(sys.argv[2]))))
