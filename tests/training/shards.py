"""One effective batch's gradients in some processes that share the layers: ``torchrun -m tests.training.shards FOLDER OUT``.

The first process writes, for test_sharded.py to compare: each method's gradient, bytes of parameters that every process holds, and the most
bytes of frozen layers that were whole at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import save_file
from torch import Tensor

from grade_lightning.distributed import gather_objects, leave, sum_gradients, sum_over_processes
from grade_lightning.methods.annealed import AnnealedGradient
from grade_lightning.methods.base import Totals
from grade_lightning.methods.grade import GradeGradient
from grade_lightning.methods.group import GRPOGradient, RLOOGradient
from grade_lightning.methods.hybrid import HybridGradient
from grade_lightning.methods.meter import Meter
from grade_lightning.methods.ppo import PPOGradient
from grade_lightning.methods.reinforce import ReinforceGradient
from grade_lightning.models.policy import Policy
from grade_lightning.models.sharding import bytes_held, layers_of
from grade_lightning.models.supported import backbone
from tests.conftest import TEXTS, make_batch, make_policy
from tests.methods.harness import make_grade, make_module, rollouts_of

IN_PAIRS, ADJOINT = {"completions_per_prompt": 2}, {"temperature": lambda step: 1.0, "tol": 1e-12}
METHODS = {
    "grade": lambda policy: make_grade(policy, straight_through=False),
    "grade, loosely": lambda policy: make_grade(policy, straight_through=False, tol=1e-2, tau=3.0),  # rows need other numbers of hops
    "grade_ste": make_grade,
    "grade_ste in parts": lambda policy: make_grade(policy, grad_accumulation=2),
    "calibrated": lambda policy: make_module(GradeGradient, policy, {**ADJOINT, "reward_gain": "calibrated"}),
    "calibrated, soft": lambda policy: make_module(
        GradeGradient, policy, {**ADJOINT, "straight_through": False, "reward_gain": "calibrated"}
    ),
    "ppo": lambda policy: make_module(PPOGradient, policy, {}),
    "reinforce": lambda policy: make_module(ReinforceGradient, policy, {}),
    "rloo": lambda policy: make_module(RLOOGradient, policy, IN_PAIRS),
    "grpo": lambda policy: make_module(GRPOGradient, policy, IN_PAIRS),
    "annealed": lambda policy: make_module(AnnealedGradient, policy, {**IN_PAIRS, **ADJOINT, "half": 0.01}),
    "annealed, all hops": lambda policy: make_module(AnnealedGradient, policy, {**IN_PAIRS, **ADJOINT, "half": 0.01, "max_hops": None}),
    "hybrid": lambda policy: make_module(HybridGradient, policy, {**IN_PAIRS, **ADJOINT}),
}
PROMPTS = [TEXTS[i % 4] + " Again." * (i // 4) for i in range(8)]


def gradient_of(policy: Policy, name: str) -> Tensor:
    """Of every update that a method makes of one batch, its own weights' included, all processes together.  -> [updates * D]."""
    module = METHODS[name](policy)
    weights = [weight for group in module.configure_optimizers().param_groups for weight in group["params"]]
    batch, found = make_batch(policy, PROMPTS, step=2), []
    rollouts = rollouts_of(module, batch)
    totals = Totals(*(round(sum_over_processes(sum(count))) for count in ([len(r) for r in rollouts], [r.tokens for r in rollouts])))

    def capture(meter: Meter) -> None:
        sum_gradients(weights)
        found.append(torch.cat([weight.grad.flatten().double() for weight in weights]))
        for weight in weights:
            weight.grad = None

    module.method.update(rollouts, totals, Meter(), batch.step, capture)
    return torch.stack(found).flatten()


def watch(policy: Policy) -> list[int]:
    """The list that takes the bytes of whole layers at every entry into a layer's forward."""
    layers, seen = layers_of(backbone(policy.lm)), []

    def count(*_: object) -> None:
        groups = [layer._get_fsdp_state()._fsdp_param_group.fsdp_params for layer in layers]
        whole = [getattr(weight, "_unsharded_param", None) for group in groups for weight in group]
        seen.append(sum(weight.untyped_storage().nbytes() for weight in whole if weight is not None))

    for layer in layers if policy.sharded else []:
        layer.register_forward_pre_hook(count)
        layer.register_forward_hook(count)
    return seen


def main(folder: str, out: str) -> None:
    dist.init_process_group("gloo")
    _, policy = make_policy(Path(folder))
    policy.shard()
    whole, found = watch(policy), {name: gradient_of(policy, name) for name in METHODS}
    held = gather_objects(bytes_held(policy))
    layer = sum(weight.numel() * weight.element_size() for weight in layers_of(backbone(policy.lm))[0].parameters())
    if dist.get_rank() == 0:
        numbers = {"held": torch.tensor(held), "whole": torch.tensor(max(whole, default=0)), "layer": torch.tensor(layer)}
        save_file({**found, **numbers}, out)
    dist.barrier()
    leave()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(*sys.argv[1:])
