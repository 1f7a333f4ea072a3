"""By how much a straight-through gradient of the reward is too short, from evidence that is averaged over steps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

FORMS = ("regression", "projection")


class GainEstimate(NamedTuple):
    """A gain and how sure it is, part by part.

    Attributes:
        value: [L] the estimate itself; 1 where nothing is known.
        low: [L] one standard error below; -inf where nothing is known.
        high: [L] one above; +inf where nothing is known.
    """

    value: Float[Tensor, " L"]
    low: Float[Tensor, " L"]
    high: Float[Tensor, " L"]

    @property
    def trusted(self) -> Float[Tensor, " L"]:
        """[L] the gain nearest to 1 that the interval does not exclude: without evidence nothing is scaled."""
        return torch.ones_like(self.value).clamp(self.low, self.high)


class GainAverage:
    """Averages of the signal moments of RLOO (g) and a straight-through estimator (h), with weights that fall from step to step.

    The gain a is <mu_g, mu_h> / |mu_h|^2, where a h comes closest to g (``regression``), or |mu_g|^2 / <mu_g, mu_h> = 1 / c, where a h
    has the length of g along g (``projection``).  They differ by the squared cosine; the second needs |mu_g|^2, of which few
    completions say little.

    Args:
        parts: L.
        momentum: what an earlier step's weight is multiplied by at each step; averages are corrected for where they begin.
        form: one of ``FORMS``.

    Attributes:
        state: [L, 3 + 9 + 2]: weighted sums of (|mu_g|^2, <mu_g, mu_h>, |mu_h|^2), of their products, of weights and of squared weights.
    """

    state: Tensor

    def __init__(self, parts: int, *, momentum: float = 0.95, form: str = "regression"):
        if form not in FORMS:
            raise ValueError(f"the form of a gain is one of {', '.join(FORMS)}, got {form}")
        self.momentum, self.form = momentum, form
        self.state = torch.zeros(parts, 14, dtype=torch.float64)

    def add(self, signal: Float[Tensor, "L 2 2"]) -> None:
        """One more step: unbiased estimates of the signal moments, part by part."""
        x = torch.stack([signal[:, 0, 0], signal[:, 0, 1], signal[:, 1, 1]], dim=1).double()
        products = (x[:, :, None] * x[:, None, :]).flatten(1)
        decay = torch.full((14,), self.momentum, dtype=torch.float64)
        decay[13] = self.momentum**2
        self.state = self.state * decay + torch.cat([x, products, torch.ones(len(x), 2, dtype=torch.float64)], dim=1)

    def estimate(self) -> GainEstimate:
        """The gain with one standard error by the delta method."""
        weight, squares = self.state[:, 12], self.state[:, 13]
        mean = self.state[:, :3] / weight[:, None].clamp_min(1e-300)
        count = weight.square() / squares.clamp_min(1e-300)  # effective number of steps
        second = (self.state[:, 3:12] / weight[:, None].clamp_min(1e-300)).view(-1, 3, 3)
        spread = second - mean[:, :, None] * mean[:, None, :]
        covariance = spread / (count - 1).clamp_min(1e-300)[:, None, None]  # of the mean: spread n/(n-1), over n
        gg, gh, hh = mean.unbind(dim=1)
        zero = torch.zeros_like(gg)
        if self.form == "regression":
            value, known, slope = gh / hh, hh > 0, torch.stack([zero, 1 / hh, -gh / hh.square()], dim=1)
        else:
            value, known, slope = gg / gh, (gg > 0) & (gh > 0), torch.stack([1 / gh, -gg / gh.square(), zero], dim=1)
        error = torch.einsum("li,lij,lj->l", slope, covariance, slope).clamp_min(0).sqrt()
        known = known & (count > 1.5) & torch.isfinite(error) & (value > 0)
        infinite = torch.full_like(value, torch.inf)
        low, high = torch.where(known, (value - error).clamp_min(0), -infinite), torch.where(known, value + error, infinite)
        return GainEstimate(torch.where(known, value, 1.0), low, high)

    @property
    def cosine(self) -> float:
        """Cosine of both estimators' means, all parts together; nan while noise leaves a squared norm at or below 0."""
        gg, gh, hh = self.state[:, :3].sum(dim=0).tolist()
        return gh / (gg * hh) ** 0.5 if min(gg, hh) > 0 else float("nan")
