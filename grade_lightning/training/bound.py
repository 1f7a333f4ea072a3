"""The methods as LightningModules; what they do stands in :mod:`grade_lightning.methods`."""

from __future__ import annotations

from grade_lightning.methods.annealed import AnnealedGradient
from grade_lightning.methods.credit import CreditGradient
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.group import GRPOGradient, RLOOGradient
from grade_lightning.methods.hybrid import HybridGradient
from grade_lightning.methods.ppo import PPOGradient
from grade_lightning.methods.reinforce import ReinforceGradient
from grade_lightning.methods.residual import ResidualGradient
from grade_lightning.training.module import BoundModule


class GRADE(BoundModule):
    """GRADE and GRADE-STE: :class:`grade_lightning.methods.GradeGradient`."""

    Gradient = GradeGradient


class PPO(BoundModule):
    """PPO: :class:`grade_lightning.methods.PPOGradient`."""

    Gradient = PPOGradient


class REINFORCE(BoundModule):
    """REINFORCE: :class:`grade_lightning.methods.ReinforceGradient`."""

    Gradient = ReinforceGradient


class RLOO(BoundModule):
    """RLOO: :class:`grade_lightning.methods.RLOOGradient`."""

    Gradient = RLOOGradient


class GRPO(BoundModule):
    """GRPO and Dr. GRPO: :class:`grade_lightning.methods.GRPOGradient`."""

    Gradient = GRPOGradient


class Hybrid(BoundModule):
    """RLOO and straight-through combined: :class:`grade_lightning.methods.HybridGradient`."""

    Gradient = HybridGradient


class Annealed(BoundModule):
    """From straight-through to a policy gradient: :class:`grade_lightning.methods.AnnealedGradient`."""

    Gradient = AnnealedGradient


class Residual(BoundModule):
    """Straight-through for a surrogate and RLOO for the rest: :class:`grade_lightning.methods.ResidualGradient`."""

    Gradient = ResidualGradient


class TokenCredit(BoundModule):
    """RLOO with first-order effects of single tokens: :class:`grade_lightning.methods.CreditGradient`."""

    Gradient = CreditGradient
