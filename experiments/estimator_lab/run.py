"""The whole laboratory: ``python -m experiments.estimator_lab.run``, some minutes on one core; writes beside this file.

``--report`` computes nothing and draws the figures from the committed ``results.parquet``.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.estimator_lab import figures
from experiments.estimator_lab.one_step import REWARDS, crossover, policy_gradient, relaxed, truth
from experiments.estimator_lab.quality import alignment, policy_gradient_qualities, relaxed_qualities
from experiments.estimator_lab.sequence import make_toy
from grade_lightning.records.leaves import read_leaves, write_leaves
from grade_lightning.training.environment import environment

HERE = Path(__file__).parent
KINDS = ("linear", "smooth", "steep", "adversarial")
TAUS = (0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
ONE_STEP_TAUS = (0.05, 0.1, 0.15, 0.25, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0)
LENGTHS = (1, 2, 3, 4, 6, 8)
ROLLOUTS = 20_000


def one_step() -> dict[str, Any]:
    found = {}
    for reward in REWARDS:
        rows = {
            name: {str(tau): relaxed(reward, tau, straight_through=st)._asdict() for tau in ONE_STEP_TAUS}
            for name, st in (("Gumbel-softmax", False), ("straight-through", True))
        }
        found[reward.name] = {
            "truth": truth(reward), "policy gradient": policy_gradient(reward)._asdict(), **rows,
            "crossover": {"Gumbel-softmax": crossover(reward), "straight-through": crossover(reward, straight_through=True)},
        }  # fmt: skip
    return found


def by_temperature(seeds: int) -> dict[str, Any]:
    """Three tokens of four: qualities averaged over random policies and rewards."""
    found: dict[str, Any] = {}
    for kind in tqdm(KINDS, desc="temperatures"):
        runs = []
        for seed in range(seeds):
            toy = make_toy(kind, steps=3, size=4, seed=seed)
            baselines = {name: q.plain() for name, q in policy_gradient_qualities(toy, rollouts=ROLLOUTS, seed=seed).items()}
            taus = {str(t): {name: q.plain() for name, q in relaxed_qualities(toy, t, rollouts=ROLLOUTS, seed=seed).items()} for t in TAUS}
            runs.append({"seed": seed, "policy gradients": baselines, "relaxations": taus})
        found[kind] = runs
    return found


def by_length(seeds: int) -> dict[str, Any]:
    """One to eight tokens of four, tau 1."""
    found: dict[str, Any] = {}
    for kind in tqdm(KINDS, desc="lengths"):
        found[kind] = []
        for seed in range(seeds):
            row = {}
            for steps in LENGTHS:
                toy = make_toy(kind, steps=steps, size=4, seed=seed)
                qualities = {
                    **policy_gradient_qualities(toy, rollouts=ROLLOUTS // 4, seed=seed),
                    **relaxed_qualities(toy, 1.0, rollouts=ROLLOUTS // 4),
                }
                row[str(steps)] = {name: q.plain() for name, q in qualities.items()}
            found[kind].append({"seed": seed, "lengths": row})
    return found


def hybrids(seeds: int) -> dict[str, Any]:
    """Updates from 16 rollouts of three tokens of four, at tau 1 and 2."""
    return {
        kind: {
            str(tau): [alignment(make_toy(kind, steps=3, size=4, seed=seed), tau, batches=500, seed=seed) for seed in range(seeds)]
            for tau in (1.0, 2.0)
        }
        for kind in tqdm(KINDS, desc="hybrids")
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5, help="random policies of each kind")
    parser.add_argument("--out", type=Path, default=HERE)
    parser.add_argument("--report", action="store_true", help="compute nothing: draw the figures of the results in --out")
    chosen = parser.parse_args()
    if chosen.report:
        figures.draw(read_leaves(chosen.out / "results.parquet")["results"], chosen.out)
        return
    torch.set_num_threads(1)
    found = {
        "environment": environment(), "one_step": one_step(), "temperature": by_temperature(chosen.seeds),
        "length": by_length(chosen.seeds), "hybrid": hybrids(chosen.seeds),
    }  # fmt: skip
    write_leaves(chosen.out / "results.parquet", {"results": found})
    figures.draw(found, chosen.out)


if __name__ == "__main__":
    main()
