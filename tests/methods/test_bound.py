"""The methods as LightningModules, and as the plain torch objects inside them."""

from __future__ import annotations

import subprocess
import sys

import lightning as L
import pytest

from grade_lightning import methods
from grade_lightning.build import build_module
from grade_lightning.methods import RLOOGradient
from grade_lightning.settings import Component
from grade_lightning.training.module import MethodModule, Plan
from tests.conftest import make_batch
from tests.methods.harness import context_of, gradient

OPTIONS = {"GRADE": {"temperature": lambda step: 1.0}, "Hybrid": {"temperature": lambda step: 1.0, "completions_per_prompt": 2}}
OPTIONS |= {"RLOO": {"completions_per_prompt": 2}, "GRPO": {"completions_per_prompt": 2}}
NAMES = ["GRADE", "GRPO", "Hybrid", "PPO", "REINFORCE", "RLOO"]


@pytest.mark.parametrize("name", NAMES)
def test_a_method_is_a_lightning_module_around_a_plain_one(name, policy64):
    kind = getattr(methods, name)
    assert issubclass(kind, L.LightningModule)
    made = kind(context_of(policy64), **OPTIONS.get(name, {}))
    assert type(made.method) is kind.Gradient
    assert not isinstance(made.method, L.LightningModule)
    plain = MethodModule(kind.Gradient(context_of(policy64), **OPTIONS.get(name, {})))
    batch = make_batch(policy64)
    assert (gradient(made, batch) - gradient(plain, batch)).norm() == 0


def test_plain_methods_do_not_load_lightning():
    code = "import sys, grade_lightning.methods as m; m.GradeGradient; print('lightning' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"
    with pytest.raises(AttributeError, match="no attribute 'A2C'"):
        methods.A2C  # noqa: B018


class LargestOfTwo(RLOOGradient):
    """A method of another package: one class, no settings of its own."""

    def advantages(self, rewards):
        return super().advantages(rewards).clamp_min(0)


def test_another_packages_method_needs_one_class(policy64):
    """A plain method that a ``_target_`` names is put into the module; its settings are those of the class it inherits from."""
    from grade_lightning.compose import composed, settings_of

    target = "tests.methods.test_bound.LargestOfTwo"
    chosen = settings_of(composed(["method=rloo", f"method._target_={target}", "method.completions_per_prompt=2", "run.dir=x"])).method
    made = build_module(chosen, context_of(policy64), Plan())
    assert isinstance(made.method, LargestOfTwo)
    assert made.method.completions_per_prompt == 2
    with pytest.raises(ValueError, match="must be a whole number, at least 2"):
        settings_of(composed(["method=rloo", f"method._target_={target}", "method.completions_per_prompt=1", "run.dir=x"]))
    with pytest.raises(ValueError, match="is no method"):
        build_module(Component("torch.nn.Linear"), context_of(policy64), Plan())


def test_checkpoints_of_earlier_versions_hold_the_methods_state_without_its_prefix(policy64):
    import torch

    module = methods.REINFORCE(context_of(policy64))
    checkpoint = {"state_dict": {"baseline": torch.tensor(0.65, dtype=torch.float64)}}
    module.on_load_checkpoint(checkpoint)
    module.load_state_dict(checkpoint["state_dict"], strict=False)
    assert float(module.method.baseline) == 0.65
    ppo = methods.PPO(context_of(policy64))
    checkpoint = {"state_dict": {"value_head.weight": torch.ones_like(ppo.method.value_head.weight)}}
    ppo.on_load_checkpoint(checkpoint)
    ppo.load_state_dict(checkpoint["state_dict"], strict=False)
    assert (ppo.method.value_head.weight == 1).all()


def test_an_adaptive_temperature_is_noted_as_the_step_was_made(model_folder, data_module):
    """And its state is kept in checkpoints, of earlier versions too."""
    from grade_lightning.estimators import AdaptiveTemperature
    from grade_lightning.methods import GradeGradient
    from tests.conftest import make_policy
    from tests.methods.harness import make_module, train_steps

    def made():
        _, policy = make_policy(model_folder, precision="fp32")
        temperature = AdaptiveTemperature(start=2.0, metric="largest_weight", target=0.9, rate=0.1)
        return make_module(GradeGradient, policy, {"temperature": temperature})

    module = made()
    rows = train_steps(module, data_module, 2)
    assert rows[0]["tau"] == 2.0
    assert rows[1]["tau"] != 2.0
    again = made()
    again.load_state_dict(module.state_dict(), strict=False)
    assert again.method.temperature(9) == module.method.temperature(9) != 2.0
    former = {"state_dict": {}, "temperature": module.method.temperature.state_dict()}
    third = made()
    third.on_load_checkpoint(former)
    third.load_state_dict(former["state_dict"], strict=False)
    assert third.method.temperature(9) == module.method.temperature(9)
