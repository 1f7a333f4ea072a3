"""Sampling, and evaluating a recorded rollout again with gradients."""
