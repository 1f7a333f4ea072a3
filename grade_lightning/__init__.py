"""GRADE-Lightning: backpropagate a reward through generated text, and compare it honestly with policy gradients."""

__version__ = "0.1.0"
