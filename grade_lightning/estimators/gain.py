"""By how much a straight-through gradient of the reward is too short, from evidence that is averaged over steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

FORMS = ("projection", "regression")
# What is averaged of a step: (<g, G>, <g, H>, <h, G>, <h, H>), their products, weights and squared weights.
_GG, _GH, _HG, _HH = range(4)
_PRODUCTS, _WEIGHT, _SQUARES, _WIDTH = slice(4, 20), 20, 21, 22
_BLOCK = 1 << 20  # elements whose products are taken at once
_FEW = 3.5  # effective steps: fewer say too little of their own spread


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


class GainAverage(nn.Module):
    """How long a step's gradients by RLOO (g) and by a straight-through estimator (h) are along the mean gradients of earlier steps.

    G and H are the directions of the two estimators' means over earlier steps.  They have no sample in common with g and h, so that, given
    the earlier steps, each of <g, G>, <g, H>, <h, G> and <h, H> is an unbiased estimate of the same product with the expectation of g or h,
    and its noise is what a gradient has along one direction: squared lengths of noisy gradients are never needed.  The gain is the mean of
    <g, H> over that of <h, H> (``regression``), which takes h as near to g as it can, or the mean of <g, G> over that of <h, G>
    (``projection``), which makes h as long along g as g is: 1 / c with c = cosine x ratio of lengths.  They differ by the squared cosine.

    The error bar takes steps as independent.  Where the two estimators' directions differ (a cosine of 0.5), the noise of G itself, which
    is much the same for about 1 / (1 - momentum) steps, adds to it: one standard error then holds the truth in about half of the cases.

    Args:
        sizes: lengths of the L parts of which a gradient [D] consists, each of which has a gain.
        momentum: what an earlier step's weight is multiplied by at each step, in means of gradients and of products; averages are corrected
            for where they begin.
        form: one of ``FORMS``.
        like: a tensor of the device and, in at least 32 bits, the type of the means; fp32 on the CPU if None.

    Attributes:
        state: [L, 22] weighted sums of the four products, of the products of these, of weights and of squared weights.  A step in which
            either gradient of a part, or either mean, is zero says nothing of it and leaves no trace but the passing of time.
        means: [2, D] weighted sums of g and of h.  Both are part of a checkpoint.
    """

    state: Tensor
    means: Tensor

    def __init__(self, sizes: Sequence[int], *, momentum: float = 0.95, form: str = "projection", like: Tensor | None = None):
        super().__init__()
        if form not in FORMS:
            raise ValueError(f"the form of a gain is one of {', '.join(FORMS)}, got {form}")
        self.sizes, self.momentum, self.form = list(sizes), momentum, form
        like = torch.zeros(0) if like is None else like
        self.register_buffer("state", like.new_zeros(len(self.sizes), _WIDTH, dtype=torch.float64))
        self.register_buffer("means", like.new_zeros(2, sum(self.sizes), dtype=torch.promote_types(like.dtype, torch.float32)))

    def add(self, unbiased: Float[Tensor, " D"], biased: Float[Tensor, " D"]) -> None:
        """One more step: both estimators' gradients, of all samples of the step together."""
        now = torch.stack([unbiased, biased]).to(self.means)
        parts = zip(now.split(self.sizes, dim=1), self.means.split(self.sizes, dim=1), strict=True)
        found = torch.stack([_gram(torch.cat(part)) for part in parts])  # [L, 4, 4] of g, h and the means of both
        squares = found.diagonal(dim1=1, dim2=2)
        known = (squares > 0).all(dim=1)
        x = (found[:, :2, 2:] / squares[:, None, 2:].clamp_min(1e-300).sqrt()).flatten(1)
        products = (x[:, :, None] * x[:, None, :]).flatten(1)
        record = torch.cat([x, products, x.new_ones(len(x), 2)], dim=1)
        decay = torch.full_like(self.state[0], self.momentum)
        decay[_SQUARES] = self.momentum**2
        self.state = self.state * decay + torch.where(known[:, None], record, 0.0)
        self.means = self.momentum * self.means + (1 - self.momentum) * now

    def estimate(self) -> GainEstimate:
        """The gain with one standard error by the delta method, on the CPU: few numbers and many operations."""
        state = self.state.cpu()
        weight, squares = state[:, _WEIGHT], state[:, _SQUARES]
        mean = state[:, :4] / weight[:, None].clamp_min(1e-300)
        count = weight.square() / squares.clamp_min(1e-300)  # effective number of steps
        second = (state[:, _PRODUCTS] / weight[:, None].clamp_min(1e-300)).view(-1, 4, 4)
        spread = second - mean[:, :, None] * mean[:, None, :]
        covariance = spread / (count - 1).clamp_min(1e-300)[:, None, None]  # of the mean: spread n/(n-1), over n
        above, below = (_GH, _HH) if self.form == "regression" else (_GG, _HG)
        value, slope = mean[:, above] / mean[:, below], torch.zeros_like(mean)
        slope[:, above], slope[:, below] = 1 / mean[:, below], -value / mean[:, below]
        error = torch.einsum("li,lij,lj->l", slope, covariance, slope).clamp_min(0).sqrt()
        known = (mean[:, [above, below]] > 0).all(dim=1) & (count > _FEW) & torch.isfinite(error)
        infinite = torch.full_like(value, torch.inf)
        low, high = torch.where(known, (value - error).clamp_min(0), -infinite), torch.where(known, value + error, infinite)
        return GainEstimate(torch.where(known, value, 1.0), low, high)

    @property
    def cosine(self) -> float:
        """Cosine of both estimators' means, all parts together: the root of regression over projection, which noise may take above 1; nan
        while it leaves a product at or below 0."""
        lengths = torch.stack([part.double().norm(dim=1) for part in self.means.split(self.sizes, dim=1)]).cpu()  # [L, 2]
        state = self.state.cpu()
        means = state[:, :4] / state[:, _WEIGHT, None].clamp_min(1e-300)
        products = (means.view(-1, 2, 2) * lengths[:, None, :]).sum(dim=0).flatten().tolist()
        return float((products[_GH] * products[_HG] / (products[_HH] * products[_GG])) ** 0.5) if min(products) > 0 else float("nan")


def _gram(rows: Tensor) -> Tensor:
    """Inner products of rows in fp64, a block at a time: [R, n] -> [R, R]."""
    found = torch.zeros(len(rows), len(rows), dtype=torch.float64, device=rows.device)
    for block in rows.split(_BLOCK, dim=1):
        wide = block.double()
        found += wide @ wide.T
    return found
