"""Methods: plain torch objects that estimate the gradient of the same objective.

``Annealed``, ``GRADE``, ``GRPO``, ``Hybrid``, ``PPO``, ``REINFORCE``, ``Residual``, ``RLOO`` and ``TokenCredit`` are LightningModules:
each is the one module of :mod:`grade_lightning.training` around a plain method (``GradeGradient`` and its siblings).  They are imported
when they are first asked for, so that the plain methods do not load Lightning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from grade_lightning.methods.annealed import AnnealedGradient
from grade_lightning.methods.base import Context, Method, Totals
from grade_lightning.methods.credit import CreditGradient
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.group import GRPOGradient, RLOOGradient
from grade_lightning.methods.hybrid import HybridGradient
from grade_lightning.methods.ppo import PPOGradient
from grade_lightning.methods.reinforce import ReinforceGradient
from grade_lightning.methods.residual import ResidualGradient

if TYPE_CHECKING:
    from grade_lightning.training.bound import GRADE, GRPO, PPO, REINFORCE, RLOO, Annealed, Hybrid, Residual, TokenCredit

_BOUND = ("GRADE", "GRPO", "PPO", "REINFORCE", "RLOO", "Annealed", "Hybrid", "Residual", "TokenCredit")

__all__ = [
    "GRADE", "GRPO", "PPO", "REINFORCE", "RLOO", "Annealed", "AnnealedGradient", "Context", "CreditGradient", "GRPOGradient",
    "GradeGradient", "Hybrid", "HybridGradient", "Method", "PPOGradient", "RLOOGradient", "ReinforceGradient", "Residual",
    "ResidualGradient", "TokenCredit", "Totals",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _BOUND:
        from grade_lightning.training import bound

        return getattr(bound, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
