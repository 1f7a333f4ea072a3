"""Estimators in pure torch: relaxations, policy-gradient losses, returns, KL, temperature schedules."""

from grade_lightning.estimators.credit import token_credit
from grade_lightning.estimators.gain import GainAverage, GainEstimate
from grade_lightning.estimators.hybrid import Moments, chunk_moments, hybrid_weights
from grade_lightning.estimators.kl import SAMPLED_KL, exact_kl, sampled_kl
from grade_lightning.estimators.paired import PairedSums
from grade_lightning.estimators.policy_gradient import ppo_clip_loss, reinforce_loss, value_loss
from grade_lightning.estimators.relaxations import (
    SoftTokens,
    entropy_gated_weights,
    gumbel_noise,
    gumbel_softmax_topk,
    gumbel_softmax_weights,
)
from grade_lightning.estimators.returns import gae, grpo_advantages, rloo_advantages, spread_weights, whiten
from grade_lightning.estimators.straight_through import (
    decoupled_st_topk,
    decoupled_st_weights,
    gumbel_rao_topk,
    gumbel_rao_weights,
    reinmax_topk,
    reinmax_weights,
)
from grade_lightning.estimators.temperature import (
    AdaptiveTemperature,
    constant_temperature,
    cosine_temperature,
    exponential_temperature,
    linear_temperature,
)

__all__ = [
    "SAMPLED_KL", "AdaptiveTemperature", "GainAverage", "GainEstimate", "Moments", "PairedSums", "SoftTokens", "chunk_moments",
    "constant_temperature", "cosine_temperature", "decoupled_st_topk", "decoupled_st_weights", "entropy_gated_weights", "exact_kl",
    "exponential_temperature", "gae", "grpo_advantages", "gumbel_noise", "gumbel_rao_topk", "gumbel_rao_weights",
    "gumbel_softmax_topk", "gumbel_softmax_weights", "hybrid_weights", "linear_temperature", "ppo_clip_loss", "reinforce_loss",
    "reinmax_topk", "reinmax_weights", "rloo_advantages", "sampled_kl", "spread_weights", "token_credit", "value_loss", "whiten",
]  # fmt: skip
