"""The weights of an export: the adapter and, where no hub has it, its base; or both merged."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grade_lightning.exporting.finished import FinishedRun
from grade_lightning.models.adapters import CONFIG, WEIGHTS, Adapter, name_base

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

BASE = "base"  # the folder beside an adapter whose base no hub has
_OF_A_MODEL = {".json", ".safetensors", ".txt", ".model", ".jinja"}


@dataclass(frozen=True)
class Base:
    """Where the base of a run is.

    Attributes:
        hub, revision: hub id and commit; None for a folder.
        folder: None for a model of the hub.
        trust_remote_code: whether the run asked for the code that it ships.
    """

    hub: str | None
    revision: str | None
    folder: Path | None
    trust_remote_code: bool = False

    @property
    def path(self) -> str:
        """What loads it here."""
        return self.hub or str(self.folder)

    def tokenizer(self) -> PreTrainedTokenizerBase:
        """As the run used it: with a padding token, padded on the left."""
        from grade_lightning.models.base import load_tokenizer

        return load_tokenizer(self.path, revision=self.revision, trust_remote_code=self.trust_remote_code)


def write_adapter(adapter: Adapter, base: Base, folder: Path, out: Path) -> None:
    """The adapter in PEFT's layout.  A base that is a folder is copied beside it, and named by where the copy will be.

    Args:
        folder: to write to.
        out: where it will lie.
    """
    shutil.copyfile(adapter.file, folder / WEIGHTS)
    shutil.copyfile(adapter.folder / CONFIG, folder / CONFIG)
    if base.folder is not None:
        (folder / BASE).mkdir()
        kinds = _OF_A_MODEL | ({".py"} if base.trust_remote_code else set())
        for file in sorted(base.folder.iterdir()):
            if file.is_file() and file.suffix in kinds and file.name != "ingredients.json":
                shutil.copyfile(file, folder / BASE / file.name)
    name_base(folder, base.hub or str(out / BASE), base.revision)


def write_merged(run: FinishedRun, adapter: Adapter, base: Base, folder: Path) -> float:
    """The base with the adapters added, in the run's precision.

    The sum is made in fp32 and rounded once.

    Returns:
        What rounding took from the update: the length of the error over the length of the update, over all layers with adapters.  0 in
        fp32, whose rounding is no larger than that of any computation with it.

    Raises:
        ValueError: the base is not the one that the run had, or the adapter has weights that are no numbers.
    """
    import torch
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict
    from peft.tuners.lora import LoraLayer
    from safetensors.torch import load_file

    from grade_lightning.models.base import load_base

    settings = run.settings
    loaded = load_base(
        base.path, precision=settings.hardware.precision, revision=base.revision, trust_remote_code=base.trust_remote_code
    )  # fmt: skip
    if loaded.fingerprint != run.fingerprint:
        raise ValueError(f"{base.path} is not the base that {run.path} was made with: its fingerprint is another one")
    dtype = loaded.model.dtype
    config = LoraConfig(**{name: adapter.config[name] for name in ("r", "lora_alpha", "target_modules", "fan_in_fan_out", "task_type")})
    model = get_peft_model(loaded.model.float(), config)
    result: Any = set_peft_model_state_dict(model, load_file(str(adapter.file)))
    if result.unexpected_keys or any("lora_" in name for name in result.missing_keys):
        raise ValueError(f"{adapter.folder} is an adapter of another model")
    lost = total = 0.0
    with torch.no_grad():
        for layer in model.modules():
            if isinstance(layer, LoraLayer) and dtype != torch.float32:
                delta: Tensor = layer.get_delta_weight("default")  # type: ignore[operator]
                exact = layer.get_base_layer().weight + delta  # type: ignore[operator]
                lost += float((exact.to(dtype).float() - exact).square().sum())
                total += float(delta.square().sum())
    merged: Any = model.merge_and_unload(safe_merge=True)  # type: ignore[operator]
    merged.to(dtype).save_pretrained(folder)
    return (lost / total) ** 0.5 if total else 0.0
