"""Straight-through gradients at their true length: frontiers of reward and KL at equal objectives."""
