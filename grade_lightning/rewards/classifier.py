"""P(positive) of prompt and completion by a head on the policy's own base, differentiable in relaxed tokens."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Completions, check_scope


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

    differentiable, soft = True, True
    range = (0.0, 1.0)

    def __init__(self, policy: Policy, head: RewardHead, *, scope: str = "full"):
        super().__init__()
        check_scope(scope)
        self._policy = [policy]  # in a list: the policy is not a submodule of its reward
        self.head = head.requires_grad_(False).eval().to(policy.device)
        self.scope = scope
        self.vocabulary = policy.vocab_size
        self.reads_states = scope == "full"

    def scoped(self, scope: str) -> ClassifierReward:
        """The same head with another scope."""
        return self if self.scope == scope else ClassifierReward(self._policy[0], self.head, scope=scope)

    def score(self, completions: Completions) -> Tensor:
        """[B] P(positive), from the reference's states where they are lent."""
        policy, prompt, mask = self._policy[0], completions.prompt, completions.mask
        whole = torch.cat([prompt.mask, mask], dim=1) if self.scope == "full" else mask
        states = completions.states if self.reads_states else None
        if states is None:
            soft = completions.soft
            embeds = policy.embed(completions.ids) if soft is None else policy.embed_soft(soft, mask)
            if self.scope == "full":
                embeds = torch.cat([policy.embed(prompt.ids), embeds], dim=1)
            with policy.reference():
                states = policy.hidden(embeds, whole)
        pooled = mean_pool(states, whole)
        return torch.softmax(self.head(pooled.to(self.head.net[0].weight.dtype)), dim=-1)[:, 1]  # type: ignore[union-attr,arg-type]
