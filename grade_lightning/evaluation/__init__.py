"""Reward, KL, judge, fluency and diversity on fixed prompts."""
