"""Architectures that cannot be a policy are refused when they are loaded, and those that can be are not."""

from __future__ import annotations

import shutil

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM, PreTrainedConfig

from grade_lightning.models.base import load_base
from grade_lightning.models.policy import Policy
from grade_lightning.models.supported import check_config
from grade_lightning.training.memory import shape_of_model
from tests.conftest import SHAPE
from tests.models.families import GROUPED, SIZES, save_family

MAMBA = {"mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR = {"linear_num_value_heads": 2, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16}
HYBRIDS = {
    "Lfm2": {**GROUPED, "layer_types": ["conv", "full_attention"]},
    "Bamba": {**GROUPED, **MAMBA, "attn_layer_indices": [1]},
    "FalconH1": {**GROUPED, **MAMBA, "mamba_d_ssm": 64, "head_dim": 16},
    "Jamba": {**GROUPED, "attn_layer_period": 2, "attn_layer_offset": 1, "num_experts": 2, "mamba_d_state": 8},
    "Qwen3Next": {
        **GROUPED, **LINEAR, "head_dim": 16, "num_experts": 2, "num_experts_per_tok": 1, "moe_intermediate_size": 16,
        "shared_expert_intermediate_size": 16, "layer_types": ["linear_attention", "full_attention"],
    },
    "Mamba": {"vocab_size": SHAPE.vocab_size, "hidden_size": 32, "num_hidden_layers": 1, "state_size": 8},
}  # fmt: skip
ATTENTION = {
    "Qwen3": {**GROUPED, "head_dim": 16}, "Llama": GROUPED, "Mistral": GROUPED, "GPTNeoX": SIZES, "Phi": SIZES,
    "OPT": {"vocab_size": SHAPE.vocab_size, "hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2},
}  # fmt: skip


def config_of(name: str, options: dict) -> PreTrainedConfig:
    found = getattr(transformers, f"{name}Config", None)
    if found is None:
        pytest.skip(f"the installed transformers has no {name}")
    return found(**options)


def saved(config: PreTrainedConfig, folder, tokenizer) -> str:
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", HYBRIDS)
def test_a_state_other_than_keys_and_values_is_refused(name, tmp_path, tokenizer):
    path = saved(config_of(name, HYBRIDS[name]), tmp_path, tokenizer)
    with pytest.raises(ValueError, match=r"running state instead of keys and values.*such as Qwen3, Llama"):
        load_base(path)


def test_the_layers_decide_and_not_the_name():
    """LFM2 is a hybrid by its convolutions: without one there is nothing to refuse."""
    check_config(config_of("Lfm2", {**GROUPED, "layer_types": ["full_attention", "full_attention"]}), "x")


def test_a_state_that_only_the_model_declares(tmp_path, tokenizer, monkeypatch):
    path = saved(config_of("Llama", GROUPED), tmp_path, tokenizer)
    load_base(path)
    monkeypatch.setattr(transformers.LlamaForCausalLM, "_is_stateful", True)
    with pytest.raises(ValueError, match="running state"):
        load_base(path)


@pytest.mark.parametrize("name", ATTENTION)
def test_attention_alone_is_supported(name, tmp_path, tokenizer):
    """They load, and the policy computes what the model does."""
    base = load_base(saved(config_of(name, ATTENTION[name]), tmp_path, tokenizer))
    ids = torch.arange(4, 16).view(2, 6)
    with torch.no_grad():
        expected = base.model(input_ids=ids).logits
        policy = Policy(base, r=2)
        found = policy.logits(policy.hidden(policy.embed(ids), torch.ones_like(ids, dtype=torch.bool)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Llama", {**GROUPED, "logits_scaling": 0.5}, "changes its embeddings or its logits"),
        ("Llama", {**GROUPED, "final_logit_softcapping": 0.1}, "changes its embeddings or its logits"),
        ("Gemma3Text", {**GROUPED, "head_dim": 16, "use_bidirectional_attention": True}, "where a later token follows"),
        ("Gemma3nText", {**GROUPED, "head_dim": 16, "layer_types": ["full_attention", "full_attention"], "num_kv_shared_layers": 0,
                         "intermediate_size": 64, "vocab_size_per_layer_input": 320}, "tables of their own"),
    ],
)  # fmt: skip
def test_what_is_computed_otherwise_is_refused(name, options, message, tmp_path, tokenizer):
    """By what is not supported, with models that are: never as if a network were missing.

    A Llama whose configuration declares what Llama does not do stands for an architecture that does what is declared nowhere.
    """
    path = save_family(name, tmp_path, tokenizer, **options)
    with pytest.raises(ValueError, match=f"{message}.*not supported: use a decoder .*such as Qwen3, Llama") as refusal:
        load_base(str(path))
    assert "network" not in str(refusal.value)


def test_of_a_model_that_sees_images_the_text_part_is_loaded(tmp_path, tokenizer):
    """Gemma 3 from 4 billion weights on: the same weights, without the tower, and the logits of the whole model."""
    vision = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    config = config_of("Gemma3", {"text_config": {**GROUPED, "head_dim": 16, "sliding_window": 5}, "vision_config": vision,
                                  "mm_tokens_per_image": 1, "boi_token_index": 300, "eoi_token_index": 301,
                                  "image_token_index": 302})  # fmt: skip
    base = load_base(saved(config, tmp_path, tokenizer))
    whole = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert not [name for name, _ in base.model.named_parameters() if "vision" in name]
    ids = torch.arange(4, 16).view(2, 6)
    with torch.no_grad():
        assert torch.equal(base.model(input_ids=ids).logits, whole(input_ids=ids, token_type_ids=torch.zeros_like(ids)).logits)
    assert {name.split(".")[2] for name in Policy(base, r=2).trainable()} == {"model"}


@pytest.mark.parametrize("name", ["missing", "missing/", "a/b/missing"])
def test_a_path_that_does_not_exist_is_no_hub_id(name, tmp_path, monkeypatch):
    """Whoever asks first: the estimate of memory or the loading itself."""
    monkeypatch.chdir(tmp_path)
    path = f"{tmp_path}/{name}" if name == "missing" else name
    for ask in (load_base, lambda path: shape_of_model(path, revision=None, trust_remote_code=False)):
        with pytest.raises(ValueError, match=f"model.path={path} is not a folder"):
            ask(path)


def test_a_folder_that_transformers_cannot_load_does_not_ask_for_a_network(model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"qwen3"', '"qwen99"'))
    with pytest.raises(ValueError, match=r"could not be loaded.*qwen99") as refusal:
        load_base(str(folder))
    assert "network" not in str(refusal.value)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "config.json"])
@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_damaged_file_is_to_be_copied_again(name, keep, model_folder, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(model_folder, folder)
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content[: int(keep * len(content))])
    with pytest.raises(ValueError, match=r"could not be loaded.*damaged or not wholly there: copy or download the model again"):
        load_base(str(folder))
