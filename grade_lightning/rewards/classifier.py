"""Rewards: P(positive) of prompt and completion, differentiable in relaxed tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grade_lightning.estimators import SoftTokens
from grade_lightning.models.policy import Policy
from grade_lightning.settings.reward import Scope


def check_scope(scope: str) -> None:
    """Raise ValueError for an unknown scope."""
    if scope not in get_args(Scope):
        raise ValueError(f"reward.scope={scope} is unknown: use one of {', '.join(get_args(Scope))}")


class Reward(Protocol):
    """What a method needs of a reward: one class and one YAML file make another."""

    vocab_size: int
    uses_reference_pass: bool

    def score(
        self, prompt_ids: Tensor, prompt_mask: Tensor, completion: Tensor | SoftTokens, mask: Tensor, *, hidden: Tensor | None = None
    ) -> Tensor:
        """Scores of B completions.

        Args:
            prompt_ids: [B, P] token ids, padding on the left.
            prompt_mask: [B, P], True = real token.
            completion: [B, T] token ids, or relaxed tokens whose weights may require gradients.
            mask: [B, T], True = real token (the first EOS is one).
            hidden: [B, P + T, d] hidden states of the reference on these very tokens, where the caller has them already
                and ``uses_reference_pass`` is True.

        Returns:
            [B] scores.
        """
        ...

    def scoped(self, scope: str) -> Reward:
        """The same reward of ``full`` (prompt + completion) or of ``completion`` alone."""
        ...


class RewardHead(nn.Module):
    """Linear(h, h)-Tanh-Linear(h, 2) on mean-pooled hidden states (Appendix A.2), in fp32."""

    def __init__(self, hidden_size: int, *, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, 2))

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, h] -> [B, 2] class logits (negative, positive)."""
        return self.net(pooled)

    def save(self, file: Path) -> None:
        """Write the weights as safetensors."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, str(file))

    @classmethod
    def load(cls, file: Path) -> RewardHead:
        """The head that :meth:`save` wrote."""
        state = load_file(str(file))
        head = cls(state["net.0.weight"].shape[1])
        head.load_state_dict(state)
        return head


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over real tokens, accumulated in at least fp32.  [B, L, d], [B, L] -> [B, d]."""
    kept = torch.where(mask.unsqueeze(-1), hidden, torch.zeros_like(hidden))
    kept = kept if kept.dtype == torch.float64 else kept.float()
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)


class ClassifierReward(nn.Module):
    """P(positive) from a classifier head on the policy's own frozen base (eq. 13): adapters disabled, mean-pooled.

    Args:
        policy: lends its base; no weights are copied.
        head: trained by :func:`grade_lightning.rewards.head_training.reward_head`.
        scope: ``full`` (prompt + completion, the paper) or ``completion``.
    """

    def __init__(self, policy: Policy, head: RewardHead, *, scope: str = "full"):
        super().__init__()
        check_scope(scope)
        self._policy = [policy]  # in a list: the policy is not a submodule of its reward
        self.head = head.requires_grad_(False).eval().to(policy.device)
        self.scope = scope
        self.vocab_size = policy.vocab_size
        self.uses_reference_pass = scope == "full"

    def scoped(self, scope: str) -> ClassifierReward:
        """This reward, or one with the same head and another scope."""
        return self if self.scope == scope else ClassifierReward(self._policy[0], self.head, scope=scope)

    def score(
        self, prompt_ids: Tensor, prompt_mask: Tensor, completion: Tensor | SoftTokens, mask: Tensor, *, hidden: Tensor | None = None
    ) -> Tensor:
        """P(positive) of B completions, see :meth:`Reward.score`."""
        policy = self._policy[0]
        whole_mask = torch.cat([prompt_mask, mask], dim=1) if self.scope == "full" else mask
        if hidden is None:
            tokens = completion if isinstance(completion, SoftTokens) else None
            embeds = policy.embed_soft(tokens, mask) if tokens is not None else policy.embed(completion)  # type: ignore[arg-type]
            if self.scope == "full":
                embeds = torch.cat([policy.embed(prompt_ids), embeds], dim=1)
            with policy.reference():
                hidden = policy.hidden(embeds, whole_mask)
        pooled = mean_pool(hidden, whole_mask)
        return torch.softmax(self.head(pooled.to(self.head.net[0].weight.dtype)), dim=-1)[:, 1]  # type: ignore[union-attr,arg-type]
