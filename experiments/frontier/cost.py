"""What a policy step costs: processor time of sampling, gradients and AdamW, methods in turns."""

from __future__ import annotations

import statistics
import time
from typing import Any

from experiments.benchmarks.measure import halves_of
from experiments.frontier.length import PERTURB
from grade_lightning.compose import composed, settings_of
from grade_lightning.data.prompts import collate
from grade_lightning.methods import AnnealedGradient, Context, GradeGradient, GRPOGradient, HybridGradient, Method, RLOOGradient
from grade_lightning.setup import inputs, objects
from grade_lightning.study.units import perturb
from grade_lightning.training.process import prepare_process

GROUP, ROUNDS, KL = 4, 9, 0.1


def methods_of(context: Context) -> dict[str, Method]:
    """What is compared, as the study runs it; a mixture whose two parts have about the same share in the second step."""
    own: dict[str, Any] = {"temperature": lambda step: 1.0, "completions_per_prompt": GROUP, "diagnostics_every": 0}
    mixed = {**own, "reward_gain": 3.0, "half": 1.0}
    return {
        "rloo": RLOOGradient(context, completions_per_prompt=GROUP),
        "grpo": GRPOGradient(context, completions_per_prompt=GROUP, match_kl=True),
        "plain": GradeGradient(context, **own),
        "calibrated_along": GradeGradient(context, **own, reward_gain="calibrated"),
        "hybrid": HybridGradient(context, temperature=own["temperature"], completions_per_prompt=GROUP),
        "annealed_no_hops": AnnealedGradient(context, **mixed, max_hops=0),
        "annealed_grpo": AnnealedGradient(context, **mixed, max_hops=None),
    }


def measure(overrides: list[str]) -> dict[str, Any]:
    """Medians, least and most over rounds of each method's milliseconds, and of its quotient with RLOO in the same round.

    Args:
        overrides: of a run.
    """
    prepare_process()
    settings = settings_of(composed([*overrides, "run.dir=unused"]))
    made = objects(inputs(settings), judges=False)
    data = made.data()
    data.setup()
    perturb(made.policy, PERTURB)
    prompts = settings.effective_batch_size // GROUP
    batch = collate(data.prompts["policy"][:prompts], made.policy.pad_id, rows=range(prompts))
    context = Context(made.policy, made.reward, settings.rollout, kl_coef=KL)
    parts = {name: halves_of(method, batch) for name, method in methods_of(context).items()}
    spent: dict[str, list[float]] = {name: [] for name in parts}
    for turn in range(ROUNDS + 1):
        for name, (draw, learn) in parts.items():
            start = time.process_time()
            learn(draw())
            if turn:  # the first one warms up
                spent[name].append(1000 * (time.process_time() - start))
    quotients = {name: [a / b for a, b in zip(found, spent["rloo"], strict=True)] for name, found in spent.items()}
    return {name: {"milliseconds": _of(spent[name]), "over_rloo": _of(quotients[name])} for name in parts}


def _of(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}
