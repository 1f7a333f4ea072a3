"""Where a straight-through gradient loses its length, exactly: ``python -m experiments.estimator_lab.credit``.

Three gradients of the expected reward on policies small enough to list every sequence, all summed over all sequences:

- truth: a token is credited with what it does to the expected reward, later tokens drawn anew (what a policy gradient estimates);
- direct: it is credited with what its replacement does to the reward of the very same later tokens;
- pathwise: with the first-order expansion of that (plain straight-through, no hop), and with the hops of the chain.

c = <g, truth> / |truth|^2 of each, medians over policies, by length.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from experiments.estimator_lab.gradients import relaxed_gradients
from experiments.estimator_lab.sequence import Toy, exact, make_toy, rewards_of, step_logits
from experiments.queue import keep_measured
from grade_lightning.estimators import decoupled_st_weights
from grade_lightning.records.leaves import read_leaves
from grade_lightning.reporting.table import Table

RECORDS = Path(__file__).parent / "credit.parquet"
KINDS, SEEDS, LENGTHS, SIZE = ("linear", "smooth", "steep"), 5, range(1, 9), 4
ESTIMATES = ("direct", "pathwise", "pathwise_hops")


def direct(toy: Toy, ids: Tensor, probability: Tensor) -> Tensor:
    """[D] sum over sequences, positions t and tokens v of p(y) grad pi(v | y_<t) r(y with v at t)."""
    flat = toy.weights().requires_grad_()
    bias, lag = toy.split(flat.expand(len(ids), -1))
    tokens = torch.nn.functional.one_hot(ids, toy.shape[1]).to(flat.dtype)
    total = torch.zeros((), dtype=flat.dtype)
    for t in range(toy.shape[0]):
        chances = torch.softmax(step_logits(bias, lag, [tokens[:, s] for s in range(t)]), dim=-1)
        for v in range(toy.shape[1]):
            replaced = ids.clone()
            replaced[:, t] = v
            total = total + (probability * chances[:, v] * rewards_of(toy, replaced)).sum()
    return torch.autograd.grad(total, flat)[0]


def pathwise(toy: Toy, ids: Tensor, probability: Tensor, max_hops: int | None) -> Tensor:
    """[D] mean of plain straight-through (decoupled, tau 1), which is a function of the hard tokens alone."""

    def relax(logits: Tensor, noise: Tensor, hard: Tensor | None) -> Tensor:
        return decoupled_st_weights(logits, noise, 1.0, hard=hard)

    noise = torch.zeros(len(ids), *toy.shape, dtype=probability.dtype)
    return (probability[:, None] * relaxed_gradients(toy, noise, relax, ids=ids, max_hops=max_hops)).sum(dim=0)


def measure() -> dict[str, Any]:
    """c and cosine of each estimate, by reward and length; medians over policies."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for steps in LENGTHS:
            rows: dict[str, list[tuple[float, float]]] = {name: [] for name in ESTIMATES}
            for seed in range(SEEDS):
                toy = make_toy(kind, steps=steps, size=SIZE, seed=seed)
                probability, _, truth = exact(toy)
                ids = toy.sequences()
                estimates = (direct(toy, ids, probability), pathwise(toy, ids, probability, 0), pathwise(toy, ids, probability, None))
                for name, estimate in zip(ESTIMATES, estimates, strict=True):
                    c = float(estimate @ truth / truth.square().sum())
                    rows[name].append((c, float(estimate @ truth / (estimate.norm() * truth.norm()))))
            found.setdefault(kind, {})[str(steps)] = {
                name: {key: float(torch.tensor([row[place] for row in listed]).median()) for place, key in enumerate(("c", "cosine"))}
                for name, listed in rows.items()
            }
    return found


def table(found: dict[str, Any]) -> Table:
    """c (cosine) by reward and length."""
    rows = [
        {"reward": kind, "tokens": int(steps), **{name: f"{one[name]['c']:.2f} ({one[name]['cosine']:.2f})" for name in ESTIMATES}}
        for kind, by_length in found.items()
        for steps, one in by_length.items()
    ]
    columns = [
        ("reward", "Reward", ""), ("tokens", "Tokens", "d"), ("direct", "Direct", ""), ("pathwise", "First order, no hop", ""),
        ("pathwise_hops", "First order, hops", ""),
    ]  # fmt: skip
    return Table("c", columns, rows, ["c (cosine) to the exact gradient; medians over five policies."])


def main() -> int:
    keep_measured(RECORDS, "credit", measure)
    found = read_leaves(RECORDS)["credit"]
    print(table({kind: found[kind] for kind in KINDS}).markdown())
    return 0


if __name__ == "__main__":
    sys.exit(main())
