"""Which objective a run maximised: the weight that its KL had against its reward."""

from __future__ import annotations

import math

import numpy as np

from grade_lightning.reporting.read import Run

_UNSCALED = {"rloo", "reinforce"}  # their reward gradients are not normalised, unless they say so


def kl_weight(run: Run) -> str:
    """Nominal and effective weight in words; "" where the configuration is unknown.

    The KL's gradient has its full length.  A reward gradient that is s times as long as that of the expected reward makes a nominal weight
    beta act as beta / s: s is measured for policy gradients (``train/average_scale``; earlier versions had that of single
    steps), and c, that of relaxed ones, where it is calibrated.
    """
    try:
        beta = float(run.config["kl_coef"])
    except (KeyError, ValueError):
        return ""
    place = run.config.get("protocol.kl_in", "loss")
    if place == "none" or beta == 0:
        return "0"
    sequence = " a completion" if run.config.get("protocol.kl_reduction") == "sequence" else ""
    return f"{beta:g}{sequence}: {_effective(run, beta, place)}"


def _effective(run: Run, beta: float, place: str) -> str:
    """What a weight above 0 comes to."""
    if "method.tol" in run.config:
        return _of_relaxed(run, beta)
    form = run.config.get("method.form")
    if form is not None:
        return f"{beta:g} / c" if form == "credit" else "in between"
    if place == "reward":
        return "the same"
    scale = run.column("train/average_scale")
    if run.config.get("method.match_kl") == "True":  # earlier versions by each batch's own scale, which jumps
        return "the same" if len(scale) else "the same, batch by batch"
    scale = scale if len(scale) else run.column("train/reward_scale")
    known = scale[np.isfinite(scale)] if len(scale) else scale
    if not len(known):
        normalised = run.config.get("method.advantage_normalisation", "none") != "none"
        return "the same" if run.method in _UNSCALED and not normalised else "not measured"
    mean = float(np.mean(known))
    return f"{beta / mean:.2g}" if mean > 0 and not math.isclose(mean, 1.0, rel_tol=0.02) else "the same"


def _of_relaxed(run: Run, beta: float) -> str:
    """The same of methods with relaxed tokens."""
    gain = run.config.get("method.reward_gain", "none")
    if run.method == "residual" and gain == "calibrated":
        return "about the same"
    if run.method == "residual" or (run.method == "annealed" and gain == "calibrated"):
        return "in between"  # in part as short as a straight-through gradient
    if run.method == "hybrid":  # as long as RLOO's along it; earlier versions, which measured no parts, weighed the KL too
        known = "about the same" if gain == "none" else f"about {beta / float(gain):.2g}"
        return known if len(run.column("train/reward_grad_norm")) else "not measured"
    if gain == "calibrated":  # as far as it was trusted
        trusted = run.column("train/reward_gain")
        return f"{beta:g} / ({np.mean(trusted):.1f} c)" if len(trusted) else "not measured"
    said = f"{beta:g} / c" if gain == "none" else f"{beta:g} / ({gain} c)"
    return f"{said} at first, the same in the end" if run.method == "annealed" else said
