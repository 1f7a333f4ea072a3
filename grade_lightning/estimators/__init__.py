"""Pure functions on tensors: relaxations, divergences, schedules.  Imports torch and nothing else."""

from grade_lightning.estimators.kl import exact_kl
from grade_lightning.estimators.relaxations import SoftTokens, gumbel_noise, gumbel_softmax_topk, gumbel_softmax_weights
from grade_lightning.estimators.temperature import constant_temperature, linear_temperature

__all__ = [
    "SoftTokens",
    "constant_temperature",
    "exact_kl",
    "gumbel_noise",
    "gumbel_softmax_topk",
    "gumbel_softmax_weights",
    "linear_temperature",
]
