"""GRADE-Lightning: backpropagate a reward through generated text, and compare it honestly with policy gradients."""

import time

IMPORTED = time.perf_counter()  # before anything slow is imported: a command's wall time counts from here

__version__ = "0.1.0"
