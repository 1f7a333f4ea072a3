"""Other rewards on the IMDB policy: ``python -m experiments.rewards.study --data FOLDER --model FOLDER``.

1. classifier: a classifier with a WordPiece vocabulary of its own, trained on the reward split (:mod:`.train_classifier`).
2. cross: RLOO and GRADE-STE driven by it at several weights of the KL, three seeds.
3. gradients: ``python -m grade_lightning.gradients`` of that reward, for the initial policy with perturbed adapters.
4. swaps: what the score does when one token is replaced, against what the gradient says, by the size of the group of tokens.
5. vader: a lexicon's score of the completion (:mod:`.vader`), by RLOO, by GRADE-STE through a surrogate, and by surrogate and residual.
6. cross_slow: what is compared most in ``experiments/frontier``, at its rate and for its 180 steps, driven by the classifier.
7. cross_fresh: the same on seeds of which nothing was known, driven by a classifier trained anew; GRPO with them.
8. preferences: a head trained on pairs of a positive and a negative review's continuation (:mod:`.make_pairs`), by RLOO and GRADE-STE.

Resumable.  Runs are kept in ``runs.parquet``, all else in ``measured.parquet``, beside this file; ``--report`` makes the tables from them.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from experiments.frontier.study import SLOW
from experiments.imdb_small.study import at_best
from experiments.queue import Cell, Queue, keep_measured, study_arguments
from experiments.rewards.make_pairs import make_pairs
from experiments.rewards.report import write
from experiments.rewards.swaps import measure
from experiments.weights import by_weight
from grade_lightning.records.leaves import add_leaves, read_leaves

HERE = Path(__file__).parent
RECORDS = HERE / "runs.parquet"
MEASURED = HERE / "measured.parquet"
CLASSIFIER = Path("multirun/rewards/classifier")
SEEDS = (1, 2, 3)
MORE_SEEDS = (4, 5)  # of the two that are compared most, whose first three seeds left open what they say
FRESH_SEEDS = (6, 7, 8)
COMMON = (
    "experiment=imdb_small", "max_steps=30", "max_new_tokens=32", "evaluation.val_prompts=256", "evaluation.test_prompts=500",
    "evaluation.validate_every=5",
)  # fmt: skip
CROSS = ("reward=sequence_classifier", f"reward.path={CLASSIFIER}")
TAU = ("temperature=constant", "temperature.value=2.0")
# From little to much KL; a straight-through gradient is too short, so that its weights are smaller for the same KL.
WEIGHTS = {"rloo": ("0.1", "0.3", "1.0"), "grade_ste": ("0.02", "0.1", "0.3")}
METHODS = {"rloo": at_best("rloo"), "grade_ste": (*at_best("grade_ste"), *TAU)}
SLOWLY = {name: SLOW[name] for name in ("rloo", "annealed_grpo", "grpo_average")}
SLOWLY_WEIGHTS = dict.fromkeys(SLOWLY, ("0.3", "0.1", "1.0"))
OFTEN = "evaluation.validate_every=30"
MEASURED_METHODS = ("rloo", "grade_ste:tau=2", "decoupled_st:tau=1")
SAMPLES = ("prompts=48", "draws=2", "rollouts=16", "relaxed_rollouts=4", "max_new_tokens=32")
VADER = "experiments.rewards.vader:compound"
SURROGATE = ("reward=surrogate", f"reward.of.function={VADER}")
LEXICON = {
    "rloo": (*at_best("rloo"), "reward=function", f"reward.function={VADER}"),
    "grade_ste-surrogate": (*at_best("grade_ste"), *TAU, *SURROGATE),
    "residual": ("method=residual", at_best("rloo")[1], *TAU, *SURROGATE),
}
LEXICON_WEIGHTS = {"rloo": ("0.1", "0.3"), "grade_ste-surrogate": ("0.02", "0.1"), "residual": ("0.1", "0.3")}
PAIRS = Path("multirun/rewards/pairs.jsonl")
PREFERENCE = ("reward=preference", f"reward.path={PAIRS}")
PREFERENCE_WEIGHTS = {"rloo": ("0.5", "2.0", "8.0"), "grade_ste": ("0.2", "1.0", "0.5")}  # log-odds vary six times as much as probabilities
PARTS = ("classifier", "cross", "gradients", "swaps", "vader", "cross_slow", "cross_fresh", "preferences")


def cross() -> list[Cell]:
    return by_weight(RECORDS, "cross", METHODS, WEIGHTS, SEEDS, CROSS)


def cross_slow() -> list[Cell]:
    two = {name: SLOWLY_WEIGHTS[name] for name in ("rloo", "annealed_grpo")}
    return by_weight(RECORDS, "cross_slow", SLOWLY, two, (*SEEDS, *MORE_SEEDS), (*CROSS, OFTEN))


def cross_fresh() -> list[Cell]:
    return by_weight(RECORDS, "cross_fresh", SLOWLY, SLOWLY_WEIGHTS, FRESH_SEEDS, (*CROSS, OFTEN))


def vader() -> list[Cell]:
    return by_weight(RECORDS, "vader", LEXICON, LEXICON_WEIGHTS, SEEDS)


def preferences() -> list[Cell]:
    return by_weight(RECORDS, "preferences", METHODS, PREFERENCE_WEIGHTS, SEEDS, PREFERENCE)


def classifier(data: str) -> None:
    """Train it once, and keep what is known of it."""
    if not (CLASSIFIER / "training.json").exists():
        command = [sys.executable, "-m", "experiments.rewards.train_classifier", "--data", data, "--out", str(CLASSIFIER)]
        subprocess.run(command, check=True)
    if "classifier" not in read_leaves(MEASURED):
        add_leaves(MEASURED, "classifier", json.loads((CLASSIFIER / "training.json").read_text()))


def gradients(queue: Queue) -> None:
    """How good the gradient through the other vocabulary is."""
    folder = queue.work / "gradients"
    if "gradients" in read_leaves(MEASURED):
        return
    if queue.measure("gradients", folder, f"methods={','.join(MEASURED_METHODS)}", *SAMPLES, "experiment=imdb_small", *CROSS):
        add_leaves(MEASURED, "gradients", json.loads(queue.without_paths((folder / "results.json").read_text())))


def swaps(queue: Queue) -> None:
    """What single swaps do to the score, against what the gradient says of them."""
    keep_measured(MEASURED, "swaps", lambda: measure(["experiment=imdb_small", "max_new_tokens=32", *CROSS, *queue.paths]))


def main() -> int:
    chosen = study_arguments(__doc__ or "", "rewards", PARTS)
    if chosen.report:
        write(RECORDS, HERE / "report")
        return 0
    queue = Queue(COMMON, chosen.data, chosen.model, chosen.work)
    if "classifier" in chosen.parts:
        classifier(chosen.data)
    if "cross" in chosen.parts:
        queue.run_all(cross(), chosen.jobs)
    if "gradients" in chosen.parts:
        gradients(queue)
    if "swaps" in chosen.parts:
        swaps(queue)
    if "vader" in chosen.parts:
        queue.run_all(vader(), chosen.jobs)
    if "cross_slow" in chosen.parts:
        queue.run_all(cross_slow(), chosen.jobs)
    if "cross_fresh" in chosen.parts:
        queue.run_all(cross_fresh(), chosen.jobs)
    if "preferences" in chosen.parts:
        make_pairs(chosen.data, PAIRS)
        queue.run_all(preferences(), chosen.jobs)
    return 0


if __name__ == "__main__":
    sys.exit(main())
