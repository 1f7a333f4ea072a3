"""Any reward made usable by relaxed methods: they differentiate a stand-in that learns from what the reward gave so far.

The value of a completion is the reward's own.  Its gradient is that of r^, a ridge regression on mean-pooled states and embeddings of the
policy's frozen base, fitted after each policy step to the completions of earlier steps, never to those whose gradient is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from grade_lightning.distributed import gather_rows
from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Completions, Reward, RewardInputs, scored
from grade_lightning.rewards.head import mean_pool, reference_states, token_embeddings
from grade_lightning.rewards.ridge import fit_ridge

Key = tuple[int, tuple[int, ...]]


class SurrogateReward(nn.Module):
    """The value of a reward with the gradient of a fit to its earlier values.

    Args:
        policy: lends its base; no weights are copied.
        of: the reward, black box or not.
        capacity: completions that the fit remembers, the latest ones.
        least: completions before the first fit; until then the gradient is 0.
        scope: tokens that are averaged: the ``completion``'s (whose states have read the prompt), or ``full``, the prompt's too.
    """

    differentiable, soft, reads_states = True, False, True
    inputs: Tensor  # [capacity, 2 d]
    values: Tensor  # [capacity]
    seen: Tensor  # [] completions so far
    slope: Tensor  # [2 d]
    origin: Tensor  # [2 d] inputs at which r^ is ``level``
    level: Tensor  # []

    def __init__(self, policy: Policy, of: Reward, *, capacity: int = 2048, least: int = 64, scope: str = "completion"):
        super().__init__()
        self._policy, self._of = [policy], [of]  # in lists: neither is part of the surrogate's state
        self.capacity, self.least, self.scope = capacity, least, scope
        self.range, self.vocabulary = of.range, of.vocabulary
        width, device = 2 * policy.embedding.shape[1], policy.device
        for name, shape in (
            ("inputs", (capacity, width)),
            ("values", (capacity,)),
            ("slope", (width,)),
            ("origin", (width,)),
            ("level", ()),
        ):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64, device=device))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long, device=device))
        self._fresh: list[tuple[Tensor, Tensor]] = []  # of this step: pooled states and the reward's values
        self._known: dict[Key, tuple[Tensor, dict[str, Tensor]]] = {}  # of this step: values of completions, by part too

    @property
    def of(self) -> Reward:
        """The reward that it stands in for."""
        return self._of[0]

    def scoped(self, scope: str) -> Reward | None:
        """The reward itself in another scope, where it knows scopes."""
        return self.of.scoped(scope)

    def pooled(self, completions: Completions) -> Tensor:
        """[B, 2 d] what r^ is a linear function of: mean-pooled states, then mean-pooled embeddings, which need fewer completions."""
        policy, prompt, mask = self._policy[0], completions.prompt, completions.mask
        states, embeddings = reference_states(policy, completions), token_embeddings(policy, completions)
        if self.scope == "completion":
            states = states[:, prompt.ids.shape[1] :]
        else:
            embeddings = torch.cat([policy.embed(prompt.ids), embeddings], dim=1)
            mask = torch.cat([prompt.mask, mask], dim=1)
        return torch.cat([mean_pool(states, mask), mean_pool(embeddings, mask)], dim=-1)

    def _estimate(self, pooled: Tensor) -> Tensor:
        return (pooled.double() - self.origin) @ self.slope + self.level

    def estimate(self, completions: Completions) -> Tensor:
        """[B] r^, differentiable in relaxed tokens."""
        return self._estimate(self.pooled(completions))

    def score(self, completions: Completions) -> Tensor:
        """[B] the reward's own values, with the gradient of r^ where there are relaxed tokens that require one."""
        return self.score_with_parts(completions)[0]

    def score_with_parts(self, completions: Completions) -> tuple[Tensor, dict[str, Tensor]]:
        """The same, and what the reward's own parts give, where it has parts."""
        soft = completions.soft
        keys = list(zip(completions.prompt.keys, map(tuple, completions.token_ids), strict=True))
        values, parts = self._values(completions, keys)
        if soft is None or not (soft.weights.requires_grad and torch.is_grad_enabled()):
            return values, parts
        pooled = self.pooled(completions)
        self._fresh.append((pooled.detach().double(), values.double()))
        for row, key in enumerate(keys):
            self._known[key] = values[row], {name: part[row] for name, part in parts.items()}
        estimate = self._estimate(pooled)
        return values + (estimate - estimate.detach()).to(values.dtype), parts

    def _values(self, completions: Completions, keys: list[Key]) -> tuple[Tensor, dict[str, Tensor]]:
        """The reward's own values; what it gave in this step already is not asked for again."""
        if keys and all(key in self._known for key in keys):
            known = [self._known[key] for key in keys]
            return torch.stack([v for v, _ in known]), {name: torch.stack([p[name] for _, p in known]) for name in known[0][1]}
        states = None if completions.states is None else completions.states.detach()
        plain = Completions(completions.prompt, completions.ids, completions.mask, completions.tokenizer, states=states)
        with torch.no_grad():
            found = scored(self.of, plain).detach()
        return found.scores, found.parts

    def discard(self) -> None:
        """Forget the completions scored since the last policy step."""
        self._fresh, self._known = [], {}

    @contextmanager
    def aside(self) -> Iterator[None]:
        """Inside, completions are scored and never learned from."""
        fresh, known = self._fresh, self._known
        self._fresh, self._known = [], dict(known)
        try:
            yield
        finally:
            self._fresh, self._known = fresh, known

    @torch.no_grad()
    def learn(self) -> dict[str, float]:
        """Take in the completions of this step, of all processes, and fit again.

        Returns:
            ``surrogate_r2``, the share of the variance of this step's rewards that r^ explained before it had seen them, ``surrogate_fit``,
            the same of the fit by leave-one-out, and ``surrogate_rows``.
        """
        states = torch.cat([states for states, _ in self._fresh]) if self._fresh else self.inputs[:0]
        values = torch.cat([values for _, values in self._fresh]) if self._fresh else self.values[:0]
        self.discard()
        states, values = gather_rows(states), gather_rows(values)
        if not len(values):
            return {}
        found = {"surrogate_r2": self._explained(states, values)}
        latest = slice(max(0, len(values) - self.capacity), None)
        places = (int(self.seen) + torch.arange(len(values))[latest]) % self.capacity
        self.inputs[places], self.values[places] = states[latest], values[latest]
        self.seen += len(values)
        rows = min(int(self.seen), self.capacity)
        found["surrogate_rows"] = float(rows)
        if rows >= self.least:
            fit = fit_ridge(self.inputs[:rows], self.values[:rows])
            self.slope.copy_(fit.slope)
            self.origin.copy_(fit.origin)
            self.level.copy_(fit.level)
            found["surrogate_fit"] = fit.left_out_r2
        return found

    def _explained(self, states: Tensor, values: Tensor) -> float:
        """1 - residual over total sum of squares; nan where the rewards do not vary."""
        total = float((values - values.mean()).square().sum())
        return 1.0 - float((values - self._estimate(states)).square().sum()) / total if total else float("nan")


class EstimatedReward:
    """What a surrogate says of completions, r^, for a policy gradient that is compared with the surrogate's own.

    Args:
        surrogate: whose estimate it is.
    """

    differentiable, soft, reads_states = False, False, True
    range: tuple[float | None, float | None] = (None, None)

    def __init__(self, surrogate: SurrogateReward):
        self.surrogate, self.vocabulary = surrogate, surrogate.vocabulary

    @torch.no_grad()
    def score(self, completions: Completions) -> Tensor:
        """[B]."""
        return self.surrogate.estimate(completions).to(torch.float32)

    def scoped(self, scope: str) -> Reward | None:
        """None: it is part of a method, not of an evaluation."""
        return None


class RestReward(EstimatedReward):
    """What a surrogate leaves of its reward: r - r^, for a policy gradient on the same completions."""

    @torch.no_grad()
    def score(self, completions: Completions) -> Tensor:
        """[B]."""
        values = self.surrogate.score(completions)
        return values - self.surrogate.estimate(completions).to(values.dtype)


def surrogate(
    inputs: RewardInputs, *, of: tuple[Reward, dict[str, Any]], capacity: int, least: int, scope: str
) -> tuple[SurrogateReward, dict[str, Any]]:
    """The reward group's ``surrogate``, and its report.

    Args:
        inputs: lends the policy's base.
        of: the reward and its report.
        capacity: see :class:`SurrogateReward`.
        least: see there.
        scope: see there.
    """
    reward, report = of
    return SurrogateReward(inputs.policy, reward, capacity=capacity, least=least, scope=scope), {"of": report}
