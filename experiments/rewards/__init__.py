"""Rewards beyond the head on the policy's own base."""
