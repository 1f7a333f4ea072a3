"""Where a run was made."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("torch", "lightning", "hydra-core", "omegaconf", "transformers", "peft", "datasets", "wandb", "torchmetrics", "numpy")


def _git(*arguments: str) -> str | None:
    """Output of a git command in the checkout this package runs from; None outside a checkout or without git."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        done = subprocess.run(["git", *arguments], cwd=folder, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def environment() -> dict[str, Any]:
    """Versions, machine and git revision; no environment variables, which may hold secrets."""
    versions: dict[str, str | None] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    # A study adds its runs to its own records while it goes on: they are no part of what runs.
    status = _git("status", "--porcelain", "--", ":(exclude,glob)experiments/**/*.parquet", ":(exclude,glob)experiments/**/*.json")
    return {
        "python": platform.python_version(), "platform": platform.platform(), "processor": _processor(), "cpus": os.cpu_count(),
        "torch_threads": torch.get_num_threads(), "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "packages": versions, "git_revision": _git("rev-parse", "HEAD"), "git_dirty": None if status is None else bool(status),
        "command": ["python", "-m", _module(), *sys.argv[1:]],
    }  # fmt: skip


def _module() -> str:
    """The module that was started."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return spec.name.removesuffix(".__main__") if spec is not None else sys.argv[0]


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor()
