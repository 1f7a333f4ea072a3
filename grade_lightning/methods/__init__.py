"""Methods: LightningModules that differ in how they estimate the gradient of the same objective."""

from grade_lightning.methods.grade import GRADE
from grade_lightning.methods.group import GRPO, RLOO
from grade_lightning.methods.hybrid import Hybrid
from grade_lightning.methods.ppo import PPO
from grade_lightning.methods.reinforce import REINFORCE

__all__ = ["GRADE", "GRPO", "PPO", "REINFORCE", "RLOO", "Hybrid"]
