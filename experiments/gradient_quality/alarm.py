"""How often ``evaluation.gradient_cosine_every`` warns, right or wrong.

Sequences of measurements are drawn from a gradient study's units of 4 completions, which are what the alarm measures, and go through
the alarm's own arithmetic.  The straight-through gradient turned round is one that points the wrong way as far as the measured one
points the right way.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from grade_lightning.quality.alarm import GradientCosine

TRIALS, MEASUREMENTS, SETTLED = 400, 25, 10


def alarm_rates(unbiased: Path, biased: Path, *, seed: int = 0) -> dict[str, float]:
    """Shares of measurements that warn or say nothing, once the running moments have settled.

    Args:
        unbiased, biased: folders of both estimators' units, on the same completions.
    """
    # [P, M, m] sketches: inner products are those of the gradients, up to an error that does not depend on the prompt.
    g, h = (torch.from_numpy(np.load(folder / "sketches.npy", allow_pickle=False)) for folder in (unbiased, biased))
    generator, (prompts, draws) = np.random.default_rng(seed), g.shape[:2]
    right, wrong = [], []
    for _ in range(TRIALS):
        alarms = GradientCosine(1), GradientCosine(1)
        for measurement in range(MEASUREMENTS):
            rows = torch.from_numpy(generator.permutation(prompts)[: alarms[0].prompts])
            draw = torch.from_numpy(generator.integers(draws, size=len(rows)))
            found = alarms[0].add(g[rows, draw], h[rows, draw]), alarms[1].add(g[rows, draw], -h[rows, draw])
            if measurement >= SETTLED:
                right.append(found[0])
                wrong.append(found[1])
    return {
        "false_alarms": float(np.mean(np.asarray(right) < 0)), "alarms_when_wrong": float(np.mean(np.asarray(wrong) < 0)),
        "silent": float(np.isnan(right).mean()), "median_cosine": float(np.nanmedian(right)),
    }  # fmt: skip
