"""Reward against KL where the best there is can be computed: ``python -m experiments.estimator_lab.frontier``.

Policies of four tokens of four symbols are trained from a reference to raise E[r] - beta KL(pi || reference), by Adam from 16 sequences a
step.  The KL and its gradient are exact for all, so that only the reward's gradient differs:

- ``exact``: the true gradient;
- ``st_mean``: the expectation of plain straight-through: its bias without its noise;
- ``rloo``, ``st``, ``rloo_cv``: four groups of four sequences, as on language models;
- ``annealed``: straight-through with a share of half / (half + n) after n steps, RLOO with the rest;
- ``leave_one_out``: RLOO with the first-order effects of all tokens as a control variate, their slopes being the other sequences' mean, so
  that it has no bias at all.

The best frontier of all distributions over sequences is Gibbs': reference x exp(r / beta) / Z.  What is reported is the share of its rise
at a KL that a method has after a number of steps, at the one rate that is best over all policies for that method, KL and number.  Between
the KLs of two runs a share is linear in the KL: drawing from either policy by chance has no less reward and no more KL than that.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from experiments.estimator_lab.figures import shares
from experiments.estimator_lab.sequence import Toy, make_toy, rewards_of
from experiments.queue import keep_measured
from grade_lightning.estimators import decoupled_st_weights, rloo_advantages, token_credit
from grade_lightning.records.leaves import read_leaves
from grade_lightning.reporting.table import Table

RECORDS = Path(__file__).parent / "frontier.parquet"
KINDS, POLICIES = ("smooth", "steep"), (0, 1, 2, 3)
LENGTH, SIZE, GROUP, GROUPS = 4, 4, 4, 4
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
WEIGHTS = tuple(0.005 * 2 ** (k / 2) for k in range(15))
HALF = 100  # steps after which straight-through and RLOO have the same share
REPLICAS = 4  # of the noise; estimates without noise need one
STEPS = (10, 20, 40, 80, 160, 320, 640)
KLS = (0.25, 0.5, 1.0)

Estimate = Callable[["Game", Tensor, Tensor], Tensor]  # flat weights [R, D] and log-probabilities [R, S] -> surrogate to differentiate


def sequence_logprobs(toy: Toy, flat: Tensor, ids: Tensor) -> Tensor:
    """log p of the tokens of the same sequences under many policies.  [R, D], [S, T] -> [R, S, T]."""
    bias, lag = toy.split(flat)
    tokens = torch.nn.functional.one_hot(ids, toy.shape[1]).to(flat.dtype)
    found = []
    for t in range(toy.shape[0]):
        logits = bias[:, None, t]
        for s in range(t):
            logits = logits + torch.einsum("sv,rvw->rsw", tokens[:, s], lag[:, t - s - 1])
        chosen = torch.log_softmax(logits, dim=-1).expand(-1, len(ids), -1)
        found.append(chosen.gather(-1, ids[:, t].expand(len(flat), -1).unsqueeze(-1)).squeeze(-1))
    return torch.stack(found, dim=-1)


class Game:
    """A reward, a reference, and every sequence with its reward.

    Args:
        kind: of the reward, see :func:`make_toy`. seed: of the reference.
    """

    def __init__(self, kind: str, seed: int):
        self.toy = make_toy(kind, steps=LENGTH, size=SIZE, seed=seed)
        self.ids = self.toy.sequences()
        self.rewards = rewards_of(self.toy, self.ids)
        self.start = self.toy.weights()
        self.reference = sequence_logprobs(self.toy, self.start[None], self.ids).sum(dim=-1)[0]
        self.generator = torch.Generator().manual_seed(1000 + seed)
        self.step = 0  # steps done
        self.gibbs = cache(self._gibbs)

    def _gibbs(self, kl: float) -> float:
        """The highest expected reward of any distribution over sequences at most this far from the reference."""
        low, high = 1e-4, 1e4  # beta by bisection of its logarithm: the KL falls as it rises
        for _ in range(200):
            beta = (low * high) ** 0.5
            logp = torch.log_softmax(self.reference + self.rewards / beta, dim=-1)
            low, high = (beta, high) if float((logp.exp() * (logp - self.reference)).sum()) > kl else (low, beta)
        return float((logp.exp() * self.rewards).sum())

    def draw(self, logp: Tensor) -> Tensor:
        """Places of 16 sequences of each policy.  [R, S] -> [R, 16]."""
        return torch.multinomial(logp.detach().exp(), GROUP * GROUPS, replacement=True, generator=self.generator)

    def relaxed(self, flat: Tensor, ids: Tensor, tokens: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Log-probabilities and straight-through weights along hard sequences.  [R, D], [R, N, T] -> [R, N, T, V] twice."""
        rows, count, steps = ids.shape
        bias, lag = self.toy.split(flat)
        fed: list[Tensor] = []
        logprobs: list[Tensor] = []
        for t in range(steps):
            logits = bias[:, None, t].expand(rows, count, SIZE)
            for s in range(t):
                before = fed[s] if tokens is None else tokens[:, :, s]
                logits = logits + torch.einsum("rnv,rvw->rnw", before, lag[:, t - s - 1])
            logprobs.append(torch.log_softmax(logits, dim=-1))
            fed.append(decoupled_st_weights(logits, torch.zeros_like(logits), 1.0, hard=ids[:, :, t]))
        return torch.stack(logprobs, dim=2), torch.stack(fed, dim=2)


def _exact(game: Game, flat: Tensor, logp: Tensor) -> Tensor:
    return (logp.exp() * game.rewards).sum(dim=-1)


def _st_mean(game: Game, flat: Tensor, logp: Tensor) -> Tensor:
    _, fed = game.relaxed(flat, game.ids.expand(len(flat), -1, -1))
    return (logp.detach().exp() * game.toy.reward(fed)).sum(dim=-1)


def _rloo(game: Game, flat: Tensor, logp: Tensor, drawn: Tensor | None = None) -> Tensor:
    drawn = game.draw(logp) if drawn is None else drawn
    return (_advantages(game, drawn) * logp.gather(1, drawn)).mean(dim=-1)


def _st(game: Game, flat: Tensor, logp: Tensor, drawn: Tensor | None = None) -> Tensor:
    _, fed = game.relaxed(flat, game.ids[game.draw(logp) if drawn is None else drawn])
    return game.toy.reward(fed).mean(dim=-1)


def _rloo_cv(game: Game, flat: Tensor, logp: Tensor) -> Tensor:
    drawn = game.draw(logp)
    logprobs, own, slopes = _with_slopes(game, flat, drawn)
    effects, expected = _effects(logprobs, slopes, game.ids[drawn])
    return ((_advantages(game, drawn).unsqueeze(-1) - effects) * own + expected).sum(dim=-1).mean(dim=-1)


def _leave_one_out(game: Game, flat: Tensor, logp: Tensor) -> Tensor:
    drawn = game.draw(logp)
    logprobs, own, slopes = _with_slopes(game, flat, drawn)
    others = (slopes.sum(dim=1, keepdim=True) - slopes) / (drawn.shape[1] - 1)
    effects, expected = _effects(logprobs, others, game.ids[drawn])
    left = (game.rewards[drawn] - effects.sum(dim=-1)).view(-1, GROUP)
    return (rloo_advantages(left).view(drawn.shape) * own.sum(dim=-1) + expected.sum(dim=-1)).mean(dim=-1)


def _annealed(game: Game, flat: Tensor, logp: Tensor) -> Tensor:
    share, drawn = HALF / (HALF + game.step), game.draw(logp)
    return share * _st(game, flat, logp, drawn) + (1 - share) * _rloo(game, flat, logp, drawn)


def _with_slopes(game: Game, flat: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Log-probabilities [R, N, T, V] along drawn sequences, those of their tokens [R, N, T], and the reward's slopes there [R, N, T, V]."""
    ids = game.ids[drawn]
    hard = torch.nn.functional.one_hot(ids, SIZE).to(flat.dtype)
    logprobs, _ = game.relaxed(flat, ids, hard)
    seen = hard.clone().requires_grad_()
    (slopes,) = torch.autograd.grad(game.toy.reward(seen).sum(), seen)
    return logprobs, logprobs.gather(-1, ids.unsqueeze(-1)).squeeze(-1), slopes


def _effects(logprobs: Tensor, slopes: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
    """Effects of drawn tokens beyond their expectation, constants, and that expectation.  -> [R, N, T] twice."""
    found = token_credit(logprobs.flatten(0, 1), slopes.flatten(0, 1), ids.flatten(0, 1))
    effects, expected = (one.view(ids.shape) for one in found)
    return effects.detach(), expected


def _advantages(game: Game, drawn: Tensor) -> Tensor:
    return rloo_advantages(game.rewards[drawn].view(-1, GROUP)).view(drawn.shape)


ESTIMATES: dict[str, Estimate] = {
    "exact": _exact, "st_mean": _st_mean, "rloo": _rloo, "st": _st, "annealed": _annealed, "leave_one_out": _leave_one_out,
    "rloo_cv": _rloo_cv,
}  # fmt: skip
NOISELESS = ("exact", "st_mean")
NAMES = {
    "exact": "exact gradient", "st_mean": "straight-through, no noise", "rloo": "RLOO", "st": "straight-through",
    "annealed": "straight-through to RLOO", "leave_one_out": "RLOO, control variate of the others' slopes",
    "rloo_cv": "RLOO, control variate of its own slopes",
}  # fmt: skip


def train(game: Game, estimate: Estimate, replicas: int) -> Tensor:
    """KL and reward of every rate, weight and replica after each number of steps -> [steps, rates, weights, replicas, 2]."""
    rows = len(WEIGHTS) * replicas
    policies = [game.start.expand(rows, -1).clone().requires_grad_() for _ in RATES]
    optimizer = torch.optim.Adam([{"params": [policy], "lr": rate} for policy, rate in zip(policies, RATES, strict=True)])
    beta = torch.tensor(WEIGHTS, dtype=game.start.dtype).repeat_interleave(replicas).repeat(len(RATES))
    kept = []
    for step in range(1, max(STEPS) + 1):
        game.step = step - 1
        flat = torch.cat(policies)
        logp = sequence_logprobs(game.toy, flat, game.ids).sum(dim=-1)
        kl = (logp.exp() * (logp - game.reference)).sum(dim=-1)
        optimizer.zero_grad()
        (beta * kl - estimate(game, flat, logp)).sum().backward()
        optimizer.step()
        if step in STEPS:
            with torch.no_grad():
                logp = sequence_logprobs(game.toy, torch.cat(policies), game.ids).sum(dim=-1)
                found = torch.stack([(logp.exp() * (logp - game.reference)).sum(-1), (logp.exp() * game.rewards).sum(-1)], dim=-1)
            kept.append(found.view(len(RATES), len(WEIGHTS), replicas, 2))
    return torch.stack(kept)


def share_at(game: Game, ends: np.ndarray, kl: float) -> float:
    """Share of the best rise at a KL, of runs [weights, 2] of one rate and replica, linear in it; nan where none went so far."""
    first = float((game.reference.exp() * game.rewards).sum())
    ordered = np.vstack([[0.0, first], ends[np.argsort(ends[:, 0])]])
    if kl > ordered[-1, 0]:
        return float("nan")
    return (float(np.interp(kl, ordered[:, 0], ordered[:, 1])) - first) / (game.gibbs(kl) - first)


def best(shares: np.ndarray) -> tuple[list[float], float]:
    """Each policy's share (mean over replicas) at the rate with the highest mean over policies, and that rate.

    Args:
        shares: [rates, policies, replicas], nan where a run did not go so far; a rate at which one did not is left out.
    """
    means = shares.mean(axis=(1, 2))
    if np.isnan(means).all():
        return [float("nan")] * shares.shape[1], float("nan")
    place = int(np.nanargmax(means))
    return shares[place].mean(axis=1).tolist(), RATES[place]


def measure() -> dict[str, Any]:
    """Shares by reward, estimate, KL and number of steps, one for each policy; and the rate."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        games = [Game(kind, seed) for seed in POLICIES]
        for name, estimate in ESTIMATES.items():
            kept = []
            for game in games:
                kept.append(train(game, estimate, 1 if name in NOISELESS else REPLICAS).numpy())
                print(f"{kind}, {name}: {len(kept)} of {len(games)} policies", file=sys.stderr, flush=True)
            for kl in KLS:
                for place, steps in enumerate(STEPS):
                    shares = np.asarray([_shares(game, runs[place], kl) for game, runs in zip(games, kept, strict=True)])
                    each, rate = best(shares.swapaxes(0, 1))
                    found.setdefault(kind, {}).setdefault(name, {}).setdefault(f"{kl:g}", {})[str(steps)] = {"shares": each, "rate": rate}
    return found


def _shares(game: Game, ends: np.ndarray, kl: float) -> list[list[float]]:
    """[rates, replicas] from runs [rates, weights, replicas, 2]."""
    return [[share_at(game, runs[:, replica], kl) for replica in range(runs.shape[1])] for runs in ends]


def noise(rows: int = 4000) -> dict[str, Any]:
    """Variance of each noisy estimate at the reference over that of RLOO, one for each policy, by reward."""
    found: dict[str, Any] = {}
    for kind in KINDS:
        for game in (Game(kind, seed) for seed in POLICIES):
            flat = game.start.expand(rows, -1).clone().requires_grad_()
            variance = {}
            for name in ("rloo", "st", "leave_one_out", "rloo_cv"):
                logp = sequence_logprobs(game.toy, flat, game.ids).sum(dim=-1)
                (gradient,) = torch.autograd.grad(ESTIMATES[name](game, flat, logp).sum(), flat)
                variance[name] = float(gradient.var(dim=0).sum())
            for name, value in variance.items():
                found.setdefault(kind, {}).setdefault(name, []).append(value / variance["rloo"])
    return found


def table(found: dict[str, Any], kl: float) -> Table:
    """Mean share over policies by number of steps, at one KL."""
    rows = []
    for kind in KINDS:
        for name in ESTIMATES:
            by_steps = found[kind][name][f"{kl:g}"]
            known = {steps: [s for s in entry["shares"] if s is not None and math.isfinite(s)] for steps, entry in by_steps.items()}
            means = {steps: float(np.mean(x)) if len(x) == len(POLICIES) else None for steps, x in known.items()}
            rows.append({"reward": kind, "method": NAMES[name], **means})
    columns = [("reward", "Reward", ""), ("method", "Gradient of the reward", ""), *((str(s), f"{s} steps", ".3f") for s in STEPS)]
    return Table("Share", columns, rows, [f"Share of the best possible rise at a KL of {kl:g} nats a sequence; mean over four policies."])


def main() -> int:
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    keep_measured(RECORDS, "frontier", measure)
    keep_measured(RECORDS, "noise", noise)
    found = read_leaves(RECORDS)["frontier"]
    for kind, each in read_leaves(RECORDS)["noise"].items():
        if kind in KINDS:
            print(kind, {name: " ".join(f"{value:.2f}" for value in values) for name, values in each.items()})
    for kl in KLS:
        print(table(found, kl).markdown())
    shares(table(found, 0.5).rows, STEPS, RECORDS.parent)
    return 0


if __name__ == "__main__":
    sys.exit(main())
