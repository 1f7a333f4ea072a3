"""A run's reward head, kept in its folder: what is generated later needs neither the reviews nor the cache that it was trained with."""

from __future__ import annotations

from pathlib import Path

from grade_lightning.models.policy import Policy
from grade_lightning.rewards.base import Reward
from grade_lightning.rewards.classifier import ClassifierReward
from grade_lightning.rewards.head import PooledReward, RewardHead
from grade_lightning.rewards.preference import PreferenceReward
from grade_lightning.settings.fields import Component
from grade_lightning.settings.reward import ClassifierHeadSettings, PreferenceSettings

FILE = "reward_head.safetensors"
_KINDS: dict[type, type[PooledReward]] = {ClassifierHeadSettings: ClassifierReward, PreferenceSettings: PreferenceReward}


def keep_head(reward: Reward, folder: Path) -> None:
    """Write the head of a reward that has one on the policy's base; of others nothing."""
    if isinstance(reward, PooledReward):
        reward.head.save(folder / FILE)


def kept_reward(component: Component, policy: Policy, folder: Path) -> Reward | None:
    """The reward of a run folder from its head alone; None where it kept none, or its reward is no head.

    Args:
        component: the run's settings of the reward.
        policy: on the same base.
        folder: of the run.
    """
    kind, file = _KINDS.get(type(component.settings)), folder / FILE
    if kind is None or not file.exists():
        return None
    return kind(policy, RewardHead.load(file), scope=component.settings.scope)  # type: ignore[return-value]
