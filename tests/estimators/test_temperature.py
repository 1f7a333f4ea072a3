"""Schedules at the values the paper states."""

import pytest

from grade_lightning.estimators import constant_temperature, linear_temperature

PAPER = {"start": 2.0, "end": 0.5, "anneal_steps": 2000}


@pytest.mark.parametrize(("step", "tau"), [(0, 2.0), (250, 1.8125), (1000, 1.25), (2000, 0.5), (5000, 0.5)])
def test_linear(step, tau):
    assert linear_temperature(step, **PAPER) == pytest.approx(tau)


def test_constant():
    assert constant_temperature(7, value=0.7) == 0.7


@pytest.mark.parametrize("bad", [{"start": 0.0}, {"end": -1.0}, {"anneal_steps": 0}])
def test_bad_settings_are_refused(bad):
    with pytest.raises(ValueError, match="must be"):
        linear_temperature(0, **{**PAPER, **bad})
