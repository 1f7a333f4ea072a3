"""What the study calls its methods, for readers."""

from __future__ import annotations

METHOD = {
    "plain": "decoupled_st",
    "ste": "grade_ste",
    "calibrated": "decoupled_st",
    "calibrated_along": "decoupled_st",
    "calibrated_along_layer": "decoupled_st",
    "annealed_grpo": "annealed",
    "annealed_no_hops": "annealed",
    "annealed_spread": "annealed",
    "grpo_average": "grpo",
}  # of the package, by what the study calls it
NAMES = {
    "rloo": "RLOO", "plain": "plain straight-through", "ste": "GRADE-STE, tau 2",
    "calibrated_along": "calibrated straight-through", "calibrated_along_layer": "calibrated layer by layer",
    "calibrated": "calibrated, products within steps",
    "annealed": "annealed into RLOO, all hops", "annealed_grpo": "annealed into GRPO, all hops", "annealed_no_hops": "annealed, no hops",
    "annealed_no_hops_350": "annealed, no hops, 350 steps",
    "annealed_spread": "annealed into GRPO, prompts by spread",
    "grpo_average": "GRPO, KL by the average", "grpo_squares": "GRPO, KL by squares", "rloo_180": "RLOO, 180 steps",
    "grpo_average_180": "GRPO, 180 steps", "ppo_average": "PPO, KL by the average",
    "half30": "annealed into RLOO, half 30", "half300": "annealed into RLOO, half 300",
    "calibrated_layer": "within steps, layer by layer", "calibrated_projection": "within steps, by projection",
    "calibrated_batch": "within steps, a batch of its own",
    "rloo_forgets": "RLOO, beta2 0.95", "grpo_scaled": "GRPO at RLOO's scale", "hybrid": "hybrid", "grpo": "GRPO, KL by each batch",
    "ppo": "PPO",
    "reinforce": "REINFORCE", "grade": "GRADE", "rloo_cv": "RLOO, control variate", "entrgi": "EntRGi", "grad2reward": "Grad2Reward",
}  # fmt: skip
NAMES |= {
    f"{method}_{which}": f"{NAMES[method]}, rate {rate}"
    for which, rate in (("lower", "3e-4"), ("higher", "3e-3"))
    for method in ("rloo", "annealed", "annealed_grpo", "grpo_average", "plain")
}
COMPARED = ("rloo", "grpo_average", "plain", "annealed", "annealed_grpo", "annealed_no_hops", "ste")
# What stands in the whole grid of weights.
GRID = ("0.1", "0.02", "0.5", "0.05", "0.2", "0.01")  # weights of the KL, in the order in which they are run
NINE = ("rloo", "grpo_average", "ppo_average", "reinforce", "grade", "ste", "plain", "calibrated_along", "hybrid")
RATES = {"frontier": "3e-3, 60 steps", "slow": "1e-3, 180 steps"}  # of the methods that are compared most
