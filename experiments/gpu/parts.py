"""The parts of :mod:`.first_light`: each takes a setting and gives what it found as JSON's values, or raises."""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from experiments.benchmarks import clock
from experiments.benchmarks.floors import peaks
from experiments.benchmarks.measure import make
from experiments.benchmarks.setting import Setting, load, prompts
from experiments.benchmarks.turns import Worker
from grade_lightning.chain.gradient import gradient
from grade_lightning.rollout.decoding import graphed
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import sample
from grade_lightning.settings.rollout import RolloutSettings
from grade_lightning.training.environment import environment

REPOSITORY = Path(__file__).parents[2]
ROUNDS = 3
# GRADE-STE's gradient of the same rollout with a base in bf16 and in fp32: 8 bits of mantissa through all layers.
LEAST_COSINE, MOST_LENGTH = 0.98, 0.05


def machine(setting: Setting) -> dict[str, Any]:
    """What this is, and how fast it copies and multiplies."""
    bandwidth, rate = peaks(setting.device, setting.precision)
    memory = torch.cuda.mem_get_info()[1] if setting.device == "cuda" else None
    return {**environment(), "bytes_per_second": bandwidth, "operations_per_second": rate, "device_bytes": memory}


def decoding(setting: Setting) -> dict[str, Any]:
    """Sampling with every cache gives the same tokens (fp32), and what it takes, with a graph and without, at the setting's precision."""
    caches = ("growing", "static", "auto") if setting.device == "cuda" else ("growing", "static")
    small = Setting(device=setting.device, rows=setting.rows, new_tokens=setting.new_tokens, top_k=setting.top_k, vocab_size=2048)
    tokens = {cache: _sampled(small, cache)[0] for cache in caches}
    different = [cache for cache in caches if not torch.equal(tokens[cache], tokens["growing"])]
    if different:
        raise AssertionError(f"sampling with cache {', '.join(different)} gives other tokens than with one that grows")
    used = {name: _sampled(setting, name, rounds=ROUNDS if name == "auto" else 1)[1] for name in caches if name != "static"}
    return {"tokens": tokens["growing"].numel(), "seconds": {name: statistics.median(rounds) for name, rounds in used.items()}}


def _sampled(setting: Setting, cache: str, *, rounds: int = 1) -> tuple[torch.Tensor, list[float]]:
    base, policy, _ = load(setting)
    _, batch = prompts(setting, base)
    noise = training_noise(0, 1, setting.rows, setting.new_tokens, setting.top_k)
    rollout = RolloutSettings(setting.new_tokens, setting.new_tokens, setting.top_k, cache=cache)
    found: list[torch.Tensor] = []
    taken = clock.seconds(lambda: found.append(sample(policy, batch, noise, rollout).completion_ids), setting.device, rounds=rounds)
    if cache == "auto" and not graphed(policy, rollout):
        raise AssertionError("no CUDA graph could be captured: rollout.cache=auto went back to a cache that grows")
    return found[-1].cpu(), taken


def precision(setting: Setting) -> dict[str, Any]:
    """GRADE-STE's gradient of one rollout with the base in bf16 and in fp32, the same weights."""
    found = []
    base, coarse, coarse_reward = load(dataclasses.replace(setting, precision="bf16"))
    _, fine, fine_reward = load(dataclasses.replace(setting, precision="fp32"))
    with torch.no_grad():
        for weight, rounded in zip(fine.parameters(), coarse.parameters(), strict=True):
            weight.copy_(rounded)
    _, batch = prompts(setting, base)
    noise = training_noise(0, 1, setting.rows, setting.new_tokens, setting.top_k)
    rollout = sample(fine, batch, noise, setting.rollout())
    for policy, reward in ((fine, fine_reward), (coarse, coarse_reward)):
        taken = gradient(policy, rollout, reward, kl_coef=setting.kl_coef, tau=setting.tau)
        found.append(torch.cat([part.flatten().double() for part in taken.values()]))
    expected, other = found
    cosine = float(expected @ other / (expected.norm() * other.norm()))
    length = float(other.norm() / expected.norm())
    if cosine < LEAST_COSINE or abs(length - 1) > MOST_LENGTH:
        raise AssertionError(
            f"bf16 and fp32 differ: cosine {cosine:.4f} (at least {LEAST_COSINE}), lengths {length:.4f} (1 +- {MOST_LENGTH})"
        )
    return {"cosine": cosine, "length": length, "norm": float(expected.norm())}


def update(case: str, setting: Setting) -> dict[str, Any]:
    """Whole updates of a case: seconds of each, and the most bytes on the device."""
    if case == "soft":
        case, setting = "adjoint", dataclasses.replace(setting, straight_through=False)
    work, measured = make(case, setting), {}
    if setting.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    long = case == "recompute"
    rounds = clock.seconds(lambda: measured.update(work()), setting.device, rounds=1 if long else ROUNDS, warm=not long)
    peak = torch.cuda.max_memory_allocated() if setting.device == "cuda" else None
    return {"seconds": statistics.median(rounds), "rounds": rounds, "peak": peak, "hops": measured.get("hops")}


def trl(setting: Setting) -> dict[str, Any]:
    """TRL's RLOO on the same work."""
    if find_spec("trl") is None:
        raise ModuleNotFoundError("TRL is not installed: pip install 'grade-lightning[bench]'")
    worker = Worker("trl_rloo", dataclasses.asdict(setting))
    try:
        rounds = [worker.update()["seconds"] for _ in range(ROUNDS)]
    finally:
        worker.close()
    return {"seconds": statistics.median(rounds), "rounds": rounds}


def whole_run(setting: Setting) -> dict[str, Any]:
    """The command that users type, for three steps on the embedded reviews."""
    hardware = ["hardware=h200"] if setting.device == "cuda" else ["hardware=cpu"]
    small = [
        "data.source.train_rows=1300", "data.source.test_rows=24", "data.source.unsupervised_rows=800", "data.reward_rows=1000",
        "data.policy_rows=64", "data.validation_rows=16", "reward.head.heldout_rows=200", "reward.head.epochs=40",
        "effective_batch_size=8", "max_new_tokens=8", "rollout.top_k=64", "rollout.min_new_tokens=2",
        "model.pretrain.vocab_size=900", "model.pretrain.hidden_size=64", "model.pretrain.layers=2", "model.pretrain.heads=2",
        "model.pretrain.kv_heads=1", "model.pretrain.mlp_size=128", "model.pretrain.batch_tokens=1024", "model.pretrain.lr=5e-3",
        "model.pretrain.validation_rows=20",
    ]  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable,
            "-m",
            "grade_lightning.run",
            "method=grade_ste",
            *hardware,
            *small,
            f"run.dir={folder}/run",
            "max_steps=3",
        ]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command[1:])} ended with {done.returncode}:\n{done.stderr[-1500:]}")
        results: dict[str, Any] = json.loads((Path(folder) / "run" / "results.json").read_text())
    return {"test_reward": results["test"]["reward_mean"], "test_kl": results["test"]["kl_mean"]}


def tests(setting: Setting) -> dict[str, Any]:
    """The tests of sampling, of the chain, of the methods and of what only a GPU's kernels can get wrong, on this machine."""
    if find_spec("pytest") is None:
        raise ModuleNotFoundError("pytest is not installed")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-m",
        "not slow",
        "-p",
        "no:cacheprovider",
        *(["-n", str(min(8, os.cpu_count() or 1))] if find_spec("xdist") else []),
        "tests/rollout",
        "tests/chain",
        "tests/methods",
        "tests/models/test_attention.py",
        "tests/models/test_bags.py",
    ]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(done.stdout[-2500:])
    return {"said": next(line for line in reversed(done.stdout.splitlines()) if " passed" in line)}
