"""A small head on mean-pooled hidden states of the policy's own frozen base: what classifier, preference and surrogate share."""

from __future__ import annotations

from pathlib import Path

import torch
from jaxtyping import Bool, Float
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Completions, check_scope


class RewardHead(nn.Module):
    """Linear(h, h)-Tanh-Linear(h, outputs) on mean-pooled hidden states (Appendix A.2: two outputs), in fp32."""

    def __init__(self, hidden_size: int, *, outputs: int = 2, seed: int = 0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.net = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.Tanh(), nn.Linear(hidden_size, outputs))

    def forward(self, pooled: Tensor) -> Tensor:
        """[B, h] -> [B, outputs]."""
        return self.net(pooled)

    def save(self, file: Path) -> None:
        """Write the weights as safetensors."""
        save_file({name: value.contiguous() for name, value in self.state_dict().items()}, str(file))

    @classmethod
    def load(cls, file: Path) -> RewardHead:
        """The head that :meth:`save` wrote."""
        state = load_file(str(file))
        head = cls(state["net.0.weight"].shape[1], outputs=state["net.2.weight"].shape[0])
        head.load_state_dict(state)
        return head


def mean_pool(hidden: Float[Tensor, "B L d"], mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B d"]:
    """Mean over real tokens, accumulated in at least fp32.  [B, L, d], [B, L] -> [B, d]."""
    kept = torch.where(mask.unsqueeze(-1), hidden, torch.zeros_like(hidden))
    kept = kept if kept.dtype == torch.float64 else kept.float()
    return kept.sum(dim=1) / mask.sum(dim=1, keepdim=True).clamp_min(1)


def token_embeddings(policy: Policy, completions: Completions) -> Float[Tensor, "B T d"]:
    """[B, T, d] embeddings of the completion's tokens, of mixtures where they are relaxed."""
    soft = completions.soft
    return policy.embed(completions.ids) if soft is None else policy.embed_soft(soft, completions.mask)


def reference_states(policy: Policy, completions: Completions) -> Float[Tensor, "B S d"]:
    """[B, P + T, d] states of the frozen base, adapters off, at prompt and completion: those that are lent, or of a pass of their own."""
    if completions.states is not None:
        return completions.states
    prompt = completions.prompt
    embeds = torch.cat([policy.embed(prompt.ids), token_embeddings(policy, completions)], dim=1)
    with policy.reference():
        return policy.hidden(embeds, torch.cat([prompt.mask, completions.mask], dim=1))


class PooledReward(nn.Module):
    """Base of rewards that a head makes from mean-pooled states of the policy's own frozen base, adapters disabled.

    Args:
        policy: lends its base; no weights are copied.
        head: frozen.
        scope: ``full`` (prompt + completion) or ``completion``, which the base then reads without its prompt.
    """

    differentiable, soft = True, True
    range: tuple[float | None, float | None] = (None, None)

    def __init__(self, policy: Policy, head: RewardHead, *, scope: str = "full"):
        super().__init__()
        check_scope(scope)
        self._policy = [policy]  # in a list: the policy is not a submodule of its reward
        self.head = head.requires_grad_(False).eval().to(policy.device)
        self.scope = scope
        self.vocabulary = policy.vocab_size
        self.reads_states = scope == "full"

    def outputs(self, completions: Completions) -> Tensor:
        """[B, outputs] of the head, from the reference's states where they are lent."""
        policy, mask = self._policy[0], completions.mask
        if self.scope == "full":
            whole = torch.cat([completions.prompt.mask, mask], dim=1)
            states = reference_states(policy, completions)
        else:
            whole = mask
            with policy.reference():
                states = policy.hidden(token_embeddings(policy, completions), whole)
        pooled = mean_pool(states, whole)
        return self.head(pooled.to(self.head.net[0].weight.dtype))  # type: ignore[union-attr,arg-type]
