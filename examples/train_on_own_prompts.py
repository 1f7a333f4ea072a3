"""Prompts and a scoring function of your own, from a model to an exported one: python examples/train_on_own_prompts.py MODEL_FOLDER OUT."""

import sys

from grade_lightning import train


def no_exclamations(completions, **_):
    """1 for a calm completion, less for each exclamation mark."""
    return [1.0 / (1 + text.count("!")) for text in completions]


subjects = ["film", "actor", "story", "ending", "music", "camera", "director", "script", "cast", "scene"]
prompts = [f"{opening} the {subject}" for opening in ("I loved", "I hated", "Let me tell you about") for subject in subjects]
run = train(
    sys.argv[1], prompts=prompts, reward=no_exclamations, method="rloo", max_steps=int(sys.argv[3]) if len(sys.argv) > 3 else 30,
    dir=f"{sys.argv[2]}/run", max_new_tokens=24, kl_coef=0.1,
)  # fmt: skip
print(run.results["initial"]["reward_mean"], "->", run.results["test"]["reward_mean"])
print(run.generate("I watched")[0]["after"]["completion"])
print("report:", run.report())
print("merged model:", run.merge(f"{sys.argv[2]}/merged"))
