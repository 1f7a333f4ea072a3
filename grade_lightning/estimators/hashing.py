"""Random numbers as a function of what they are for."""

from __future__ import annotations

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_GOLDEN, _MIX1, _MIX2 = -7046029254386353131, -4658895280553007687, -7723592293110705685  # splitmix64, as signed 64-bit


def splitmix64(x: Int64[Tensor, "*shape"]) -> Int64[Tensor, "*shape"]:
    """A well-mixed 64-bit hash of int64 values (Steele, Lea and Flood 2014); wraps around, on any device."""
    x = x + _GOLDEN
    x = (x ^ ((x >> 30) & 0x3FFFFFFFF)) * _MIX1
    x = (x ^ ((x >> 27) & 0x1FFFFFFFFF)) * _MIX2
    return x ^ ((x >> 31) & 0x1FFFFFFFF)


def hashed_exponential(keys: Float[Tensor, "*batch k"], draw: int) -> Float64[Tensor, "*batch k"]:
    """Standard exponential variates that are a function of (key, place on the last axis, draw).

    Args:
        keys: [..., k] floats drawn from a continuous distribution.
        draw: number of the draw.

    Returns:
        [..., k] in float64.
    """
    places = torch.arange(keys.shape[-1], device=keys.device)
    mixed = splitmix64(splitmix64(keys.double().view(torch.int64) + places) + splitmix64(places + (draw + 1) * 1000003))
    uniform = ((mixed >> 11) & ((1 << 53) - 1)).to(torch.float64) * 2.0**-53
    return -torch.log1p(-uniform).clamp_max(-(2.0**-60))  # never 0: its logarithm is taken
