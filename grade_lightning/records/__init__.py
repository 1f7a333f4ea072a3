"""What a run leaves behind; neither torch nor Hydra is imported here."""
