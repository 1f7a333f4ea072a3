"""Bias, variance and usefulness of an estimator whose target is known exactly."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor

from experiments.estimator_lab.gradients import (
    BY_TOKENS,
    draw_noise,
    policy_gradients,
    relaxations,
    relaxed_gradients,
    rloo_gradients,
    sample_ids,
)
from experiments.estimator_lab.sequence import Toy, exact
from grade_lightning.estimators import Moments, chunk_moments, hybrid_weights


@dataclass(frozen=True)
class Quality:
    """Of one rollout's gradient g with mean mu, and the exact gradient g*.

    Attributes:
        bias: ||mu - g*|| / ||g*||; variance: tr Cov(g) / ||g*||^2; cosine: of mu and g*; nvr: tr Cov(g) / ||mu||^2.
        rho_1, rho_16, rho_256: cos / sqrt(1 + nvr / N), the first-order gain of a normalised step with N rollouts.
        exact: summed over all sequences; otherwise over ``rollouts`` sampled ones.
    """

    bias: float
    variance: float
    cosine: float
    nvr: float
    rho_1: float
    rho_16: float
    rho_256: float
    exact: bool
    rollouts: int

    def plain(self) -> dict[str, float | bool | int]:
        return asdict(self)


def quality(gradients: Tensor, truth: Tensor, *, weights: Tensor | None = None, per_unit: int = 1) -> Quality:
    """From gradients [N, D] with probabilities ``weights`` [N] (equal if None), each the mean of ``per_unit`` rollouts."""
    count = len(gradients)
    p = torch.full((count,), 1.0 / count, dtype=gradients.dtype) if weights is None else weights
    mu = (p[:, None] * gradients).sum(dim=0)
    variance = float((p * (gradients - mu).square().sum(dim=1)).sum())
    square = float(mu.square().sum())
    if weights is None:  # ||mean||^2 of a sample is too large by its own noise
        variance *= count / (count - 1)
        square = max(square - variance / count, 1e-300)
    cosine = float(mu @ truth) / (square**0.5 * float(truth.norm()))
    nvr = variance / square
    rho = {n: cosine / (1 + nvr * per_unit / n) ** 0.5 for n in (1, 16, 256)}
    scale = float(truth.square().sum())
    return Quality(
        float((mu - truth).norm()) / scale**0.5, variance * per_unit / scale, cosine, nvr * per_unit, rho[1], rho[16], rho[256],
        weights is not None, count * per_unit,
    )  # fmt: skip


def policy_gradient_qualities(toy: Toy, *, rollouts: int, seed: int = 0) -> dict[str, Quality]:
    """Policy gradients: without baseline and with the expected reward as baseline exactly, RLOO by sampling."""
    p, rewards, truth = exact(toy)
    ids = toy.sequences()
    found = {
        "policy gradient": quality(policy_gradients(toy, ids, rewards), truth, weights=p),
        "policy gradient, baseline E[r]": quality(policy_gradients(toy, ids, rewards - (p * rewards).sum()), truth, weights=p),
    }
    sampled = rloo_gradients(toy, sample_ids(toy, draw_noise(toy, rollouts, seed)))
    found["RLOO, G=4"] = quality(sampled.view(-1, 4, sampled.shape[-1]).mean(dim=1), truth, per_unit=4)
    return found


def relaxed_qualities(toy: Toy, tau: float, *, rollouts: int, seed: int = 0) -> dict[str, Quality]:
    """Every relaxation at one temperature, and straight-through without its effect on later tokens."""
    p, _, truth = exact(toy)
    ids, noise = toy.sequences(), draw_noise(toy, rollouts, seed)
    found = {}
    for name, relax in relaxations(tau).items():
        if name in BY_TOKENS:
            listed = relaxed_gradients(toy, torch.zeros(len(ids), *toy.shape, dtype=torch.float64), relax, ids=ids)
            found[name] = quality(listed, truth, weights=p)
        else:
            found[name] = quality(relaxed_gradients(toy, noise, relax), truth)
        if name == "straight-through":
            found["straight-through, max_hops=0"] = quality(relaxed_gradients(toy, noise, relax, max_hops=0), truth)
    return found


def alignment(toy: Toy, tau: float, *, batches: int, seed: int = 0) -> dict[str, tuple[float, float]]:
    """Mean cosine with the exact gradient, and its standard error, of updates from the same 16 rollouts.

    RLOO, straight-through, and the hybrid with weights from the other half of its batch alone, from 10 and from 50 other batches (what
    running moments with momentum 0.9 and 0.98 come to), and from the true moments (an upper bound that no user has).
    """
    _, _, truth = exact(toy)
    noise = draw_noise(toy, 16 * batches, seed)
    relax = relaxations(tau)["straight-through"]
    chunks = [x.view(batches, 4, 4, -1).mean(dim=2) / 4 for x in
              (rloo_gradients(toy, sample_ids(toy, noise)), relaxed_gradients(toy, noise, relax))]  # fmt: skip
    unbiased, biased = chunks
    known = chunk_moments(unbiased.flatten(0, 1), biased.flatten(0, 1))
    halves = [[chunk_moments(unbiased[i, rows], biased[i, rows]) for rows in (slice(0, 2), slice(2, 4))] for i in range(batches)]

    signals, totals = (
        torch.stack([torch.stack([getattr(m, name) for m in pair]).mean(dim=0) for pair in halves]) for name in ("signal", "total")
    )

    def history(i: int, window: int) -> Moments:
        others = [(i + j) % batches for j in range(1, window + 1)]
        return Moments(signals[others].mean(dim=0), totals[others].mean(dim=0))

    def hybrid(moments_of: list[list[Moments]]) -> Tensor:
        rows = []
        for i in range(batches):
            total = torch.zeros_like(truth)
            for own, other in ((slice(0, 2), moments_of[i][1]), (slice(2, 4), moments_of[i][0])):
                a, b = hybrid_weights(other, 4, min_cosine=0.1)
                total += a * unbiased[i, own].sum(dim=0) + b * biased[i, own].sum(dim=0)
            rows.append(total)
        return torch.stack(rows)

    found = {
        "RLOO": unbiased.sum(dim=1), "straight-through": biased.sum(dim=1), "hybrid, this batch alone": hybrid(halves),
        **{f"hybrid, moments of {w} batches": hybrid([[history(i, w)] * 2 for i in range(batches)]) for w in (10, 50)},
        "hybrid, true moments": hybrid([[known] * 2] * batches),
    }  # fmt: skip
    cosines = {name: torch.nn.functional.cosine_similarity(x, truth[None], dim=1) for name, x in found.items()}
    return {name: (float(c.mean()), float(c.std()) / batches**0.5) for name, c in cosines.items()}
