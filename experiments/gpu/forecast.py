"""Memory of an update that no machine here can make, and how far such a forecast is from what was measured where one can.

``python -m experiments.gpu.forecast`` writes ``memory.json`` and ``memory.md`` beside this file: on this processor three sizes foreseen and
measured, and Qwen3-4B's shape foreseen.  Bytes are those of tensors, which is what ``torch.cuda.max_memory_allocated`` counts on a GPU and
torch's profiler on a processor; the resident size of a process is larger, by what its heap cannot give back.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmarks import measure
from experiments.benchmarks.floors import estimated_memory
from experiments.benchmarks.setting import QWEN3_4B, Setting, prompts_of, random_model, tokenizer_of
from experiments.gpu.absent import DEVICE, Ledger, absent, move, register
from grade_lightning.methods import Method
from grade_lightning.models.base import BaseLM
from grade_lightning.models.norms import FusedNorm
from grade_lightning.models.policy import Policy
from grade_lightning.records.files import write_atomically
from grade_lightning.rewards.classifier import ClassifierReward
from grade_lightning.rewards.head import RewardHead
from grade_lightning.training.environment import environment

HERE = Path(__file__).parent
HOPS = 2
# Case and rows at once.  Policy gradients compute parts of this size again, which aborts on a device made in Python.
LARGE = (("adjoint", 16), ("adjoint", 8))
CASES = ("adjoint", "reinforce", "rloo", "ppo")
SIZES = {
    "5M": {},
    "5M, T 128": {"new_tokens": 128},
    "30M, 8 layers": {"hidden_size": 512, "layers": 8, "heads": 8, "kv_heads": 4, "mlp_size": 1536, "rows": 8},
}


@dataclass(frozen=True)
class Forecast:
    """Bytes of an update, and how often it waits for its device.

    Attributes:
        weights: held before the first update. peak: most held in the second one.
        reads: numbers that the program waited for. uploads: copies to the device.
    """

    weights: int
    peak: int
    reads: int
    uploads: int

    @property
    def update(self) -> int:
        """What an update needs on top of what is there before training."""
        return self.peak - self.weights


class Names:
    """In the place of a meter: metrics of fake values have no means."""

    def __init__(self, device: Any):
        self.measured: dict[str, Any] = {}

    def update(self, weight: float = 1.0, **values: Any) -> None:
        self.measured |= values

    def drop(self, name: str) -> None:
        self.measured.pop(name, None)

    def compute(self) -> dict[str, Any]:
        return self.measured


@contextmanager
def fake_method(setting: Setting, make: Callable[[Policy, ClassifierReward], Method]) -> Iterator[tuple[Ledger, BaseLM, Method]]:
    """Model, policy, reward and method of a setting on the absent device; what is done with them is done inside.

    Args:
        setting: sizes and precision.
        make: the method.
    """
    tokenizer = tokenizer_of(setting)
    tokenizer.padding_side = "left"
    with torch.device("meta"):
        base = BaseLM(random_model(setting, "meta").requires_grad_(False).eval(), tokenizer, "absent", "absent")
        policy = Policy(base, seed=0, checkpointing=setting.checkpointing)
        reward = ClassifierReward(policy, RewardHead(policy.embedding.shape[1], seed=0))
    early = make(policy, reward)
    with absent(hops=HOPS) as ledger:
        move(policy, reward, early)
        # Weights of a method's own are made on another device and moved, which fake ones cannot be; other methods keep the policy's.
        method = early if list(early.parameters()) else make(policy, reward)
        move(method)
        yield ledger, base, method


class _NormKernel(torch.autograd.Function):
    """What CUDA's norm keeps for its backward pass, x and one number a row; torch writes other devices' norms as six operations."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight, x.new_empty(x.shape[:-1], dtype=torch.float32))
        return torch.empty_like(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return torch.empty_like(gradients[0]), None


def forecast(case: str, setting: Setting, *, norm_kernel: bool = False) -> Forecast:
    """An update on the absent device, with the optimizer's state there from another one of the same rollouts.

    Args:
        case, setting: of :mod:`experiments.benchmarks.measure`.
        norm_kernel: norms are one kernel, as on CUDA.
    """
    if norm_kernel:
        with patch.object(FusedNorm, "__call__", lambda norm, x: _NormKernel.apply(x, norm.module.weight)):
            return forecast(case, setting)
    setting = dataclasses.replace(setting, max_hops=HOPS, device=DEVICE)
    with fake_method(setting, lambda policy, reward: measure.method_of(case, setting, policy, reward)) as (ledger, base, method):
        batch = prompts_of(case, setting, base)
        weights = ledger.now
        draw, learn = measure.halves_of(method, batch, Names)
        ledger.forget()
        rollouts = draw()
        peak, reads, uploads, held = ledger.peak, ledger.reads, ledger.uploads, ledger.now
        learn(rollouts)
        state = ledger.now - held
        ledger.forget()
        learn(rollouts)
        return Forecast(weights, max(peak + state, ledger.peak), reads + ledger.reads, uploads + ledger.uploads)


def measured(case: str, setting: Setting) -> int:
    """Most bytes of tensors that an update on this processor holds on top of those before training: of the second one, by the profiler."""
    update = measure.make(case, dataclasses.replace(setting, max_hops=HOPS))
    before = _allocated(update)[1]  # what stays of the first: the optimizer's state
    return before + _allocated(update)[0]


def _allocated(update: Any) -> tuple[int, int]:
    """The most, and what is left at the end, of what is allocated in an update."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        update()
    assert profiler.profiler is not None
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        most = max(most, held)
    return most, held


def compare(out: Path) -> dict[str, Any]:
    """Sizes that this machine can make, and the one that it cannot; what ``memory.json`` has is not made again."""
    file = out / "memory.json"
    found: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {"sizes": [], "qwen3_4b": [], "machine": environment()}
    have = {(row.get("size", "qwen3_4b"), row["case"], row["rows"]) for row in (*found["sizes"], *found["qwen3_4b"])}
    wanted = [(size, case, Setting(**SIZES[size])) for size in SIZES for case in CASES]
    wanted += [("qwen3_4b", case, Setting(**QWEN3_4B, rows=rows, precision="bf16")) for case, rows in LARGE]
    for size, case, setting in tqdm(wanted, desc="updates"):
        if (size, case, setting.rows) in have:
            continue
        foreseen = forecast(case, setting, norm_kernel=size == "qwen3_4b")
        row = {"case": case, "rows": setting.rows, **asdict(foreseen), "update": foreseen.update}
        if size in SIZES:
            found["sizes"].append({"size": size, **row, "measured": measured(case, setting)})
        else:
            found["qwen3_4b"].append({**row, "checked": estimated_memory(setting, case)})
        write_atomically(file, json.dumps(found, indent=1) + "\n")
        write_atomically(out / "memory.md", markdown(found))
    return found


def markdown(found: dict[str, Any]) -> str:
    """Both tables."""
    lines = ["| size | case | foreseen, MB | measured, MB | ratio |", "| --- | --- | --- | --- | --- |"]
    for row in found["sizes"]:
        lines.append(f"| {row['size']} | {row['case']} | {row['update'] / 1e6:.0f} | {row['measured'] / 1e6:.0f} "
                     f"| {row['update'] / row['measured']:.3f} |")  # fmt: skip
    lines += ["", "Qwen3-4B's shape, bf16, prompts of 32 tokens, completions of 64, on a device:", "",
              "| case | rows at once | weights, GB | peak, GB | the check before a run says, GB | numbers waited for | uploads |",
              "| --- | --- | --- | --- | --- | --- | --- |"]  # fmt: skip
    for row in found["qwen3_4b"]:
        lines.append(f"| {row['case']} | {row['rows']} | {row['weights'] / 1e9:.2f} | {row['peak'] / 1e9:.2f} "
                     f"| {(row['weights'] + row['checked']) / 1e9:.2f} | {row['reads']} | {row['uploads']} |")  # fmt: skip
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=HERE)
    chosen = parser.parse_args()
    try:
        register()
    except ValueError as error:
        parser.error(str(error))
    print(markdown(compare(chosen.out)), flush=True)
    os._exit(0)  # an interpreter that differentiated on a device made in Python aborts when it is torn down (torch 2.13)


if __name__ == "__main__":
    main()
