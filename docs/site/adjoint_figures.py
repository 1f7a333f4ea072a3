"""The figures of docs/adjoint.md: `python docs/site/adjoint_figures.py` writes them into docs/images/.

The second figure is computed: a chain of 24 states in which each reads what all earlier ones fed, small enough that plain backpropagation
through it is at hand as the truth for the package's own solver.
"""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import torch
from torch import Tensor

from grade_lightning.chain.triangular import Chain, backward_through_time

mpl.use("Agg")
import matplotlib.pyplot as plt

IMAGES = Path(__file__).resolve().parents[1] / "images"
TOKENS, WIDTH = 24, 6
GAINS = (0.3, 1.0, 3.0)  # of the weights: how strongly a state reacts to what was fed
INK, PATH, HOP = "#333333", "#b0b0b0", "#c0392b"


def states_of(fed: Tensor, weight: Tensor, inputs: Tensor) -> Tensor:
    """States h_t = x_t + W mean(e_<t), [1, T, d], in one parallel pass: row t reads what was fed before t."""
    length = fed.shape[1]
    before = torch.ones(length, length, dtype=fed.dtype).tril(-1)
    return inputs + (before / before.sum(dim=1, keepdim=True).clamp_min(1)) @ fed @ weight


def truth(weight: Tensor, inputs: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """What is fed, and the gradient of <wanted, e> with respect to W by plain backpropagation, token by token."""
    fed: list[Tensor] = []
    for t in range(TOKENS):
        context = torch.stack(fed).mean(dim=0) @ weight if fed else torch.zeros(WIDTH, dtype=weight.dtype)
        fed.append(torch.tanh(inputs[0, t] + context))
    whole = torch.stack(fed).unsqueeze(0)
    (gradient,) = torch.autograd.grad((whole * wanted).sum(), weight)
    return whole.detach(), gradient


def errors(gain: float) -> tuple[list[float], Tensor]:
    """Relative error of the gradient by ``max_hops`` from 0 to T - 1, and the norms of the blocks of M, [T, T]."""
    generator = torch.Generator().manual_seed(0)
    inputs, wanted = (torch.randn(1, TOKENS, WIDTH, generator=generator, dtype=torch.float64) for _ in range(2))
    weight = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64))[0] * gain
    weight.requires_grad_()
    values, exact = truth(weight, inputs, wanted)
    found = []
    for hops in range(TOKENS):
        leaf = values.clone().requires_grad_()
        states = states_of(leaf, weight, inputs)
        slope = 1 - torch.tanh(states.detach()) ** 2  # each token is tanh of its own state
        weight.grad = None
        backward_through_time(Chain(leaf, states, lambda fed, slope=slope: fed * slope), wanted * slope, [weight], tol=0.0, max_hops=hops)
        assert weight.grad is not None
        found.append(float((weight.grad - exact).norm() / exact.norm()))
    leaf = values.clone().requires_grad_()
    jacobian = torch.autograd.functional.jacobian(lambda fed: states_of(fed, weight.detach(), inputs), leaf)
    return found, jacobian[0, :, :, 0].pow(2).sum(dim=(1, 3)).sqrt()


def draw_chain() -> None:
    """One influence followed back: the direct derivative at one token, then hop by hop to earlier ones."""
    figure, axes = plt.subplots(figsize=(8.0, 3.3))
    for t in range(5):
        axes.text(t, 1.0, f"$h_{t + 1}$", ha="center", va="center", fontsize=15, color=INK)
        axes.text(t, 0.0, f"$e_{t + 1}$", ha="center", va="center", fontsize=15, color=INK)
        axes.annotate("", (t, 0.2), (t, 0.8), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.4})
        for later in range(t + 1, 5):
            axes.annotate("", (later - 0.1, 0.84), (t + 0.12, 0.12), arrowprops={"arrowstyle": "->", "color": PATH, "lw": 0.8})
    axes.annotate("", (4, -0.75), (4, -0.2), arrowprops={"arrowstyle": "->", "color": INK, "lw": 1.4})
    axes.text(4.12, -0.75, "reward, KL", va="center", fontsize=11, color=INK)
    axes.annotate(
        "direct: $b_5$", (4.1, 0.72), (4.35, 0.35), fontsize=11, color=HOP, arrowprops={"arrowstyle": "->", "color": HOP, "lw": 1.6}
    )
    for start, end, name in ((4, 2, "first hop"), (2, 0, "second hop")):
        arrow = {"arrowstyle": "->", "color": HOP, "lw": 1.8, "connectionstyle": "arc3,rad=0.32"}
        axes.annotate("", (end + 0.05, 1.17), (start - 0.05, 1.17), arrowprops=arrow)
        axes.text((start + end) / 2, 1.62, name, ha="center", fontsize=11, color=HOP)
    axes.set(xlim=(-0.5, 5.3), ylim=(-1.0, 1.95))
    axes.axis("off")
    figure.savefig(IMAGES / "adjoint_chain.png", dpi=140, bbox_inches="tight")
    plt.close(figure)


def draw_series() -> None:
    """Left: powers of M are thinner and thinner. Right: error of the gradient by number of hops."""
    figure, axes = plt.subplots(1, 4, figsize=(11.0, 3.0), width_ratios=[1, 1, 1, 1.9], constrained_layout=True)
    _, blocks = errors(1.0)
    pattern = (blocks > 0).double()
    for axis, power in zip(axes[:3], (1, 4, 16), strict=True):
        axis.imshow(torch.linalg.matrix_power(pattern, power) > 0, cmap="Greys", vmin=0, vmax=1.4)
        axis.set(title=f"$M^{{{power}}}$" if power > 1 else "$M$", xlabel="token", xticks=[], yticks=[])
    axes[0].set_ylabel("later state")
    for gain in GAINS:
        found, _ = errors(gain)
        axes[3].semilogy(range(TOKENS), [max(error, 1e-16) for error in found], marker=".", label=f"|W| = {gain:g}")
    axes[3].set(xlabel="max_hops", ylabel="relative error of the gradient", title=f"{TOKENS} tokens")
    axes[3].legend(frameon=False)
    figure.savefig(IMAGES / "adjoint_series.png", dpi=140)
    plt.close(figure)


if __name__ == "__main__":
    IMAGES.mkdir(exist_ok=True)
    draw_chain()
    draw_series()
    for gain in GAINS:
        found, _ = errors(gain)
        print(gain, [f"{error:.1e}" for error in found[:5]], f"last {found[-1]:.1e}")
