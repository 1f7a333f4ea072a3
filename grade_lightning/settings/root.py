"""All settings of a run."""

from __future__ import annotations

from typing import Any

from grade_lightning.settings.data import AnyData, DataSettings
from grade_lightning.settings.fields import Bool, Component, Float, Int, Text, component, components, key, settings
from grade_lightning.settings.method import MethodSettings
from grade_lightning.settings.model import ModelSettings, PretrainSettings
from grade_lightning.settings.rollout import ProtocolSettings, RolloutSettings
from grade_lightning.settings.run import (
    EvaluationSettings,
    HardwareSettings,
    NamesSettings,
    OptimizerSettings,
    RunSettings,
    TauSettings,
)
from grade_lightning.settings.tracking import TrainerSettings


@settings
class PretrainingSettings:
    """Pretraining a base LM."""

    data: DataSettings = key("where reviews come from")
    pretrain: PretrainSettings = key("the model and its recipe")
    out: Text = key("folder of the model")
    hardware: HardwareSettings = key("device and precision", default=HardwareSettings())


@settings
class Settings:
    """A run."""

    model: ModelSettings = key("the base language model")
    data: AnyData = key("reviews, splits and prompts")
    reward: Any = component("what is maximised")
    method: Any = component("how the gradient is estimated")
    optimizer: OptimizerSettings = key("of the LoRA weights")
    temperature: Any = component("tau over the policy steps", default=None)
    seed: Int = key("of prompts, noise, dropout and initial adapters", default=1, ge=0, le=2**31 - 1)
    max_steps: Int = key("policy steps: one effective batch each", default=60, ge=1)
    max_new_tokens: Int = key("longest completion in tokens", default=64, ge=1, le=1_000_000)
    effective_batch_size: Int = key("completions in one policy step, however hardware.grad_accumulation splits them", default=16, ge=1)
    kl_coef: Float = key("beta of eq. 16; where it enters and how it is estimated stands under protocol", default=0.1, ge=0)
    tau: TauSettings = key("the relaxation's temperature", default=TauSettings())
    rollout: RolloutSettings = key("how completions are sampled", default=RolloutSettings())
    protocol: ProtocolSettings = key("which decisions are followed", default=ProtocolSettings())
    hardware: HardwareSettings = key("device, precision, accumulation", default=HardwareSettings())
    evaluation: EvaluationSettings = key("which prompts are evaluated, when and how", default=EvaluationSettings())
    trainer: Any = component("flags of Lightning's trainer", default=Component("lightning.Trainer", TrainerSettings()))
    callbacks: Any = components("Lightning callbacks by name", default={})
    logger: Any = components("Lightning loggers by name, told beside metrics.csv, which is always written", default={})
    quiet: Bool = key("no progress bars and no lines of validations on the console", default=False)
    run: RunSettings = key("where the run is written", default=RunSettings())
    names: NamesSettings = key("the groups' choices, for the record", default=NamesSettings())

    @property
    def method_settings(self) -> MethodSettings:
        """The settings of the method, with the facts of its class."""
        assert isinstance(self.method, Component)
        return self.method.settings

    @property
    def evaluation_rollout(self) -> RolloutSettings:
        """How evaluation samples: the lengths and the cache of training, the evaluation's own decoding."""
        rollout, decoding = self.rollout, self.evaluation.sampling
        return RolloutSettings(
            rollout.max_new_tokens,
            rollout.min_new_tokens,
            decoding.top_k,
            decoding.top_p,
            decoding.sampling_temperature,
            cache=rollout.cache,
        )
