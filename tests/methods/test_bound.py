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
