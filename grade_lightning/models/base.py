"""Loading the base language model: a local folder or a hub id, safetensors only."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from grade_lightning.models.cache import files_fingerprint
from grade_lightning.models.supported import SUPPORTED, check_config, check_model

log = logging.getLogger(__name__)

# What the names of the text part's weights begin with, in models whose causal language model would see images too.
TEXT_PARTS = {"gemma3": r"^language_model\."}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp64": torch.float64}


@dataclass(frozen=True)
class BaseLM:
    """A frozen causal language model, its tokenizer, and a hash that identifies both.

    Attributes:
        name: hub id, or the last part of the folder. fingerprint: commit on the hub, or hash of the folder's files.
        hub: the hub id; None for a folder.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    name: str
    fingerprint: str
    hub: str | None = None


def check_weights(folder: Path) -> None:
    """Raise ValueError for a folder without a configuration and safetensors weights."""
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} has no config.json: it is not a model folder in the Hugging Face layout")
    if not any(folder.glob("*.safetensors")):
        pickled = " (pickled *.bin weights are not read: convert them to safetensors)" if any(folder.glob("*.bin")) else ""
        raise ValueError(f"{folder} has no *.safetensors weights{pickled}")


def check_model_folder(path: str | Path) -> Path:
    """A folder in the Hugging Face layout with a configuration, safetensors weights and a tokenizer.

    Raises:
        ValueError: naming what is missing.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"model.path={path} is not a folder: give the folder of a model in the Hugging Face layout")
    check_weights(folder)
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")):
        raise ValueError(f"{folder} has no tokenizer (tokenizer.json): save it beside the model with tokenizer.save_pretrained")
    return folder


def load_base(path: str, *, precision: str = "fp32", revision: str | None = None, trust_remote_code: bool = False) -> BaseLM:
    """Load and freeze a base language model.

    Args:
        path: a local folder, or a hub id such as ``Qwen/Qwen3-0.6B``.
        precision: ``fp32``, ``bf16`` or ``fp64`` (tests); the dtype of the frozen weights.
        revision: of the hub repository.
        trust_remote_code: run code that the repository ships; off unless asked for.

    Raises:
        ValueError: nothing there, a damaged file, the hub is out of reach, or an architecture that is not supported: see :mod:`.supported`.
    """
    local, options = looks_local(path), {"revision": revision, "trust_remote_code": trust_remote_code}
    config = load_config(path, revision=revision, trust_remote_code=trust_remote_code)
    tokenizer = load_tokenizer(path, revision=revision, trust_remote_code=trust_remote_code)
    check_config(config, path)
    try:
        model = _load_weights(path, config, precision, options)
    except (OSError, ValueError, SafetensorError) as error:
        raise _not_loaded(path, error, local) from error
    model.requires_grad_(False).eval()
    check_model(model, path)
    if local:
        return BaseLM(model, tokenizer, Path(path).name, files_fingerprint(Path(path).expanduser()))
    return BaseLM(model, tokenizer, path, _commit(path, revision), hub=path)


def load_config(path: str, *, revision: str | None, trust_remote_code: bool) -> PreTrainedConfig:
    """The configuration of a base language model; arguments and errors as those of :func:`load_base`."""
    local = looks_local(path)
    if local:
        check_model_folder(path)
    try:
        config: PreTrainedConfig = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _not_loaded(path, error, local) from error
    return config


def _commit(hub_id: str, revision: str | None) -> str:
    """The commit of a hub's model that was just loaded: its files lie in the client's cache under that name."""
    found = try_to_load_from_cache(hub_id, "config.json", revision=revision)
    if not isinstance(found, str):
        raise ValueError(f"no commit is known of {hub_id}: the hub's cache does not hold what was loaded; set model.revision to a commit")
    return Path(found).parent.name


def as_base(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> BaseLM:
    """A transformers model that is in memory already, frozen where it stands; its fingerprint is that of its configuration alone.

    Raises:
        ValueError: an architecture that is not supported, or a tokenizer without an end-of-sequence token.
    """
    name = model.config.name_or_path or type(model).__name__
    check_config(model.config, name)
    check_model(model, name)
    model.requires_grad_(False).eval()
    _set_padding(tokenizer, name)
    return BaseLM(model, tokenizer, name, hashlib.sha256(model.config.to_json_string().encode()).hexdigest()[:16])


def _load_weights(path: str, config: PreTrainedConfig, precision: str, options: dict[str, Any]) -> PreTrainedModel:
    """The causal language model; of a model that also sees images, its text part."""
    # transformers takes its own fused attention where the architecture has it, and writes attention out where scores are capped.
    options = {"dtype": DTYPES[precision], "use_safetensors": True, **options}
    prefix = TEXT_PARTS.get(config.model_type)
    if prefix is None:
        return AutoModelForCausalLM.from_pretrained(path, **options)
    text = config.get_text_config()
    loaded: Any = AutoModelForCausalLM.from_pretrained(path, config=text, key_mapping={prefix: ""}, output_loading_info=True, **options)
    model, found = loaded
    if found["missing_keys"]:
        raise ValueError(f"its text part lacks {sorted(found['missing_keys'])[0]} and {len(found['missing_keys']) - 1} more weights")
    return model


def load_tokenizer(path: str, *, revision: str | None = None, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a base language model, with a padding token; arguments and errors as those of :func:`load_base`."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        raise _not_loaded(path, error, looks_local(path)) from error
    _set_padding(tokenizer, path)
    return tokenizer


def looks_local(path: str) -> bool:
    """Whether a model's path means a folder of this machine, there or not, and not a hub id."""
    return Path(path).expanduser().exists() or path.startswith((".", "/", "~")) or path.endswith("/") or path.count("/") > 1


def _not_loaded(path: str, error: Exception, local: bool) -> ValueError:
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    remedy = (
        "a file of it is damaged or not wholly there: copy or download the model again"
        if _is_of_a_damaged_file(error)
        else SUPPORTED
        if local
        else "Without network, use model=local with model.path=FOLDER (any model in the Hugging Face layout), or model=tiny, which "
        "needs nothing"
    )
    what = f"the model {path}" if local else f"there is no folder {path} here, and as a model of the hub it"
    return ValueError(f"{what} could not be loaded: {reason.rstrip('.')}. {remedy[0].upper()}{remedy[1:]}")


def _is_of_a_damaged_file(error: Exception) -> bool:
    """Half of a file, or a pointer of Git LFS in its place; transformers has an error of its own for its configurations."""
    return isinstance(error, (SafetensorError, json.JSONDecodeError, UnicodeDecodeError)) or "not a valid JSON file" in str(error)


def _set_padding(tokenizer: PreTrainedTokenizerBase, path: str) -> None:
    if tokenizer.eos_token_id is None:
        raise ValueError(f"the tokenizer of {path} has no end-of-sequence token: completions could never end")
    if tokenizer.pad_token_id is None:
        # Only a filler: masks are explicit everywhere, so a padding id that is also EOS is harmless.
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
