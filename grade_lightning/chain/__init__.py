"""What differentiates a recorded rollout: log-probabilities, KL, and backpropagation through the generated tokens."""
