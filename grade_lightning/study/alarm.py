"""A watch over training: does the straight-through gradient still point where a policy gradient points?"""

from __future__ import annotations

import logging
import math
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.estimators import Moments, chunk_moments, gumbel_noise
from grade_lightning.methods.base import Method
from grade_lightning.methods.group import RLOOGradient
from grade_lightning.rewards.base import Learning
from grade_lightning.rollout.noise import keyed_generator
from grade_lightning.study.units import UnitSampler
from grade_lightning.training.module import MethodModule

log = logging.getLogger(__name__)


class GradientCosine(Callback):
    """Every few policy steps, ``train/gradient_cosine``: the cosine between the mean gradients of a relaxed method and of RLOO.

    From fresh rollouts of some of the step's prompts, by inner products of different prompts, so that noise adds no bias; averaged
    with earlier measurements, since the policy gradient's noise is large.  Nothing is logged where noise hides the sign of a squared
    norm.  Training itself is not touched.

    Args:
        every: policy steps between measurements.
        prompts: measured each time. completions: of each, where the method itself takes one.
        momentum: of the running moments.
    """

    def __init__(self, every: int, *, prompts: int = 8, completions: int = 4, momentum: float = 0.8):
        self.every, self.prompts, self.completions, self.momentum = every, prompts, completions, momentum
        self._sums: torch.Tensor | None = None

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: PromptBatch, batch_idx: int
    ) -> None:
        assert isinstance(pl_module, MethodModule)
        if batch.step % self.every or len(batch) < 2:
            return
        cosine = self.measure(pl_module.method, batch)
        if math.isnan(cosine):
            return
        pl_module.step_metrics["gradient_cosine"] = cosine
        if cosine < 0:
            log.warning(
                "policy step %d: the straight-through gradient seems to point away from the policy gradient (running cosine %.2f). If "
                "this goes on, its bias may have the wrong sign: try another temperature, method=hybrid or method=rloo",
                batch.step, cosine,
            )  # fmt: skip

    def measure(self, method: Method, batch: PromptBatch) -> float:
        """The running cosine; nan where noise leaves nothing to say."""
        context = method.context
        settings = context.rollout
        size = method.completions_per_prompt if method.completions_per_prompt > 1 else self.completions
        parents = (
            UnitSampler(RLOOGradient(context.for_policy_gradient(), completions_per_prompt=size), part="reward"),
            UnitSampler(method, step=batch.step, part="reward"),  # the KL has its full length in both and would hide what is compared
        )
        found: list[list[torch.Tensor]] = [[], []]
        for row in range(min(self.prompts, len(batch))):
            prompt = batch[row : row + 1].repeat(size)
            generator = keyed_generator("gradient cosine", context.seed, batch.step, row)
            noise = gumbel_noise((size, settings.max_new_tokens, settings.top_k), generator=generator)
            for parent, gradients in zip(parents, found, strict=True):
                gradients.append(parent.unit(prompt, noise).gradient)
        if isinstance(method.reward, Learning):
            method.reward.discard()
        return self.add(*(torch.stack(gradients) for gradients in found))

    def add(self, unbiased: torch.Tensor, biased: torch.Tensor) -> float:
        """The running cosine with one more measurement: both gradients of C prompts, [C, D] each."""
        moments = chunk_moments(unbiased, biased)
        now = torch.stack([moments.signal, moments.total])
        self._sums = now if self._sums is None else self.momentum * self._sums + now
        return Moments(self._sums[0], self._sums[1]).cosine

    def state_dict(self) -> dict[str, Any]:
        return {"sums": self._sums}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._sums = state_dict["sums"]
