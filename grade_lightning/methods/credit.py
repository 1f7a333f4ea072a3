"""Policy gradients that use the reward's gradient as credit of single tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from grade_lightning.chain.candidates import candidate_logits
from grade_lightning.chain.parallel import hard_hidden, read_with_gradient
from grade_lightning.estimators import rloo_advantages, token_credit
from grade_lightning.methods.base import Totals, score_measurements
from grade_lightning.methods.group import Group
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.policy_gradient import Sampled
from grade_lightning.rollout.types import Rollout
from grade_lightning.settings.methods import CreditSettings


@dataclass
class _Credited(Sampled):
    """With the reward's gradient [B, T, k] in the candidates' weights at the hard tokens."""

    gradient: Tensor


class CreditGradient(Group):
    """RLOO with the first-order effect of each token on the reward.

    With g_t the reward's gradient in the weights of the candidates at t, p_t their probabilities and x_t the drawn one, a token's effect is

        c_t = g_t[x_t] - sum_v p_t[v] g_t[v],

    what gradient x embedding attributes to it, over what it attributes to the tokens that might have stood there.  ``form`` is

        credit             sum_t c_t grad log p_t(x_t)
        control_variate    sum_t (A - c_t) grad log p_t(x_t) + sum_v g_t[v] grad p_t[v]      A: RLOO's advantage of the completion

    The first is Grad2Reward's idea (2602.01791, gradient x embedding as dense rewards) with the policy's own mean as the baseline; were g_t
    the same for every x_t, its expectation would be the plain straight-through gradient without hops, whose sum over candidates has
    none of its noise.  In the second that straight-through gradient stands for itself and RLOO for what it leaves: were g_t the same for
    every x_t, it would be unbiased whatever g_t is.

    Args:
        context: its reward is differentiable in relaxed tokens.
        settings, **values: see :class:`Method` and :class:`grade_lightning.settings.methods.CreditSettings`.
    """

    Settings = CreditSettings

    def advantages(self, rewards: Tensor) -> Tensor:
        return rloo_advantages(self.grouped(rewards)).flatten()

    def read(self, rollout: Rollout, meter: Meter) -> _Credited:
        frozen, gradient = read_with_gradient(self.policy, self.reward, rollout)
        meter.update(len(rollout), **score_measurements(self.reward, frozen.scored))
        return _Credited(rollout, frozen.scored.scores, frozen.reference_hidden, gradient)

    def _accumulate(self, sampled: Sampled, advantages: Tensor, totals: Totals, meter: Meter) -> None:
        assert isinstance(sampled, _Credited)
        rollout, gradient = sampled.rollout, sampled.gradient
        hidden = hard_hidden(self.policy, rollout)
        found = self.statistics(sampled, hidden)
        self.measure(sampled, found, meter)
        logprobs = torch.log_softmax(rollout.on_support(candidate_logits(self.policy, hidden, rollout.indices)), dim=-1)
        effects, expected = token_credit(logprobs, gradient, rollout.hard)
        credit = effects.detach()
        if self.settings.form == "control_variate":
            credit, pathwise = advantages.unsqueeze(1) - credit, expected
        else:
            pathwise = torch.zeros_like(expected)
        terms = torch.where(rollout.mask, credit * found.logprobs + pathwise, 0.0)
        size = torch.where(rollout.mask, effects.detach().abs(), 0.0).sum() / rollout.tokens
        meter.update(rollout.tokens, token_credit=size)
        self.backward(-terms.sum() / totals.samples, self.kl_loss(found, rollout, totals))
