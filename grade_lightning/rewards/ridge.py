"""Ridge regression whose penalty is chosen by leaving one out."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

PENALTIES = torch.logspace(-2, 5, 22, dtype=torch.float64)  # of standardised inputs; 5 is next to none of the slope


class Ridge(NamedTuple):
    """value = (input - origin) . slope + level.

    Attributes:
        slope: [d].
        origin: [d].
        level: [].
        left_out_r2: share of the values' variance that is explained where each row is left out in turn; nan where they do not vary.
    """

    slope: Float[Tensor, " d"]
    origin: Float[Tensor, " d"]
    level: Float[Tensor, ""]
    left_out_r2: float


def fit_ridge(inputs: Float[Tensor, "N d"], values: Float[Tensor, " N"]) -> Ridge:
    """Least squares with a penalty on the slope of standardised inputs, the one of ``PENALTIES`` that predicts left-out rows best.

    All leave-one-out errors come from one decomposition (Allen's PRESS): e_i / (1 - h_i), h the leverages.

    Args:
        inputs: [N, d], N >= 2, in fp64.
        values: [N].
    """
    origin, level = inputs.mean(dim=0), values.mean()
    scale = inputs.std(dim=0, correction=0)
    scale = torch.where(scale > 1e-12 * (origin.abs() + 1), scale, torch.inf)  # what does not vary says nothing
    left, singular, right = torch.linalg.svd((inputs - origin) / scale, full_matrices=False)
    target = left.T @ (values - level)
    penalties = PENALTIES.to(inputs.device)
    shrunk = singular.square() / (singular.square() + penalties[:, None])  # [P, K]
    leverage = shrunk @ left.square().T + 1.0 / len(values)  # [P, N]; the mean is fitted too
    errors = (values - level - (shrunk * target) @ left.T) / (1.0 - leverage).clamp_min(1e-9)
    press = errors.square().mean(dim=1)
    best = int(press.argmin())
    slope = (right.T @ (singular / (singular.square() + penalties[best]) * target)) / scale
    spread = float(values.var(correction=0))
    return Ridge(slope, origin, level, 1.0 - float(press[best]) / spread if spread else float("nan"))
