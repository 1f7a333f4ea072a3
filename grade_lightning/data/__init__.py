"""Where reviews come from, the four splits, prompts, and the DataModule."""
