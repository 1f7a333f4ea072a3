"""Which objective a run maximised: the weight that its KL had against its reward."""

from __future__ import annotations

import math

import numpy as np

from grade_lightning.reporting.read import Run

_UNSCALED = {"rloo", "reinforce"}  # their reward gradients are not normalised, unless they say so


def kl_weight(run: Run) -> str:
    """Nominal and effective weight in words; "" where the configuration is unknown.

    The KL's gradient has its full length.  A reward gradient that is s times as long as that of the expected reward makes a nominal weight
    beta act as beta / s: s is measured for policy gradients (``train/reward_scale``), and c, that of relaxed ones, where it is calibrated.
    """
    try:
        beta = float(run.config["kl_coef"])
    except (KeyError, ValueError):
        return ""
    place = run.config.get("protocol.kl_in", "loss")
    if place == "none" or beta == 0:
        return "0"
    sequence = " a completion" if run.config.get("protocol.kl_reduction") == "sequence" else ""
    gain = run.config.get("method.reward_gain", "none")
    if "method.tol" in run.config:  # relaxed tokens
        effective = "about the same" if gain == "calibrated" else f"{beta:g} / c" if gain == "none" else f"{beta:g} / ({gain} c)"
        return f"{beta:g}{sequence}: {effective}"
    if place == "reward" or run.config.get("method.match_kl") == "True":
        return f"{beta:g}{sequence}: the same"
    scale = run.column("train/reward_scale")
    known = scale[np.isfinite(scale)] if len(scale) else scale
    normalised = run.config.get("method.advantage_normalisation", "none") != "none"
    if not len(known):
        return f"{beta:g}{sequence}: {'the same' if run.method in _UNSCALED and not normalised else 'not measured'}"
    mean = float(np.mean(known))
    scaled = mean > 0 and not math.isclose(mean, 1.0, rel_tol=0.02)
    return f"{beta:g}{sequence}: {f'{beta / mean:.2g}' if scaled else 'the same'}"
