"""Adapters on disk, in PEFT's layout: what they are, whether they fit, and which base they name."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from grade_lightning.settings.model import LoraSettings
from grade_lightning.settings.problems import refuse

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# What an adapter of the policy here never has; each changes what the weights mean.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None), "use_rslora": (False, None), "bias": ("none", None), "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None), "modules_to_save": (None, []), "lora_bias": (False, None), "trainable_token_indices": (None,),
    "target_parameters": (None, []),
}  # fmt: skip


@dataclass(frozen=True)
class Adapter:
    """The adapter in a folder.

    Attributes:
        folder: with ``adapter_config.json`` and ``adapter_model.safetensors``.
        config: the first, as values.
        layers: names of the layers with adapters, as the second has them.
        ranks: of its matrices.
    """

    folder: Path
    config: dict[str, Any]
    layers: frozenset[str]
    ranks: frozenset[int]

    @property
    def file(self) -> Path:
        """The weights."""
        return self.folder / WEIGHTS

    @property
    def fingerprint(self) -> str:
        """A short hash of the weights; a copy has the same."""
        with self.file.open("rb") as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()[:16]

    def misfit(self, lora: LoraSettings) -> str | None:
        """What keeps a policy with such adapters from starting with this one; None where nothing does.  Layers that the settings leave
        to the architecture are compared when the weights are loaded."""
        if self.config.get("peft_type") != "LORA":
            return f"it is no LoRA but {self.config.get('peft_type')}"
        for name, allowed in _PLAIN.items():
            if name in self.config and self.config[name] not in allowed:
                return f"it has {name}={self.config[name]}, which adapters here do not have"
        own = {"r": (self.config.get("r"), lora.r), "alpha": (self.config.get("lora_alpha"), lora.alpha)}
        wrong = [f"model.lora.{name} is {wanted} and the adapter's is {found}" for name, (found, wanted) in own.items() if found != wanted]
        if wrong:
            return "; ".join(wrong)
        if self.ranks != {lora.r}:
            return f"its matrices have the ranks {sorted(self.ranks)} and its configuration says {lora.r}"
        if lora.target_modules is not None:
            outside = sorted(name for name in self.layers if not any(name.endswith(target) for target in lora.target_modules))
            missing = [target for target in lora.target_modules if not any(name.endswith(target) for name in self.layers)]
            if outside or missing:
                return f"model.lora.target_modules is {lora.target_modules} and the adapter has {sorted(_ends(self.layers))}"
        return None


def read_adapter(path: str | Path) -> Adapter:
    """The adapter in a folder; its weights are not read, only what they are.

    Raises:
        ValueError: naming what is missing or cannot be read.
    """
    folder = Path(path).expanduser()
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise ValueError(f"{folder} holds no adapter in PEFT's layout: it has no {name}")
    try:
        config = json.loads((folder / CONFIG).read_text())
        with safe_open(str(folder / WEIGHTS), framework="pt") as weights:
            shapes = {name: tuple(weights.get_slice(name).get_shape()) for name in weights.keys()}  # noqa: SIM118 (no mapping)
    except (OSError, ValueError, SafetensorError) as error:
        raise ValueError(f"the adapter in {folder} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"the adapter in {folder} cannot be read: {CONFIG} holds no object")
    ranks = {shape[0] for name, shape in shapes.items() if ".lora_A." in name and shape}
    layers = {name.split(".lora_")[0] for name in shapes if ".lora_" in name}
    return Adapter(folder, config, frozenset(layers), frozenset(ranks))


def starting_adapter(path: str, lora: LoraSettings) -> Adapter:
    """The adapter that ``run.adapter`` names.

    Raises:
        SettingsError: there is none in the folder, or it has another shape.
    """
    try:
        found = read_adapter(path)
    except ValueError as error:
        refuse("run.adapter", f"{error}: give checkpoints/last of a run, or an exported adapter")
    reason = found.misfit(lora)
    if reason is not None:
        refuse("run.adapter", f"{found.folder} has another shape than this run's adapters: {reason}")
    return found


def name_base(folder: Path, base: str | None, revision: str | None = None) -> None:
    """Have ``adapter_config.json`` name this base; None where no name would be found elsewhere."""
    file = folder / CONFIG
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "base_model_name_or_path": base, "revision": revision}, indent=2, sort_keys=True) + "\n")


def _ends(layers: frozenset[str]) -> set[str]:
    return {name.rsplit(".", 1)[-1] for name in layers}
