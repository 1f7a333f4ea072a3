"""The work that every side of a comparison does."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerFast, Qwen3ForCausalLM

from grade_lightning.data.prompts import PromptBatch, collate, make_prompts
from grade_lightning.data.synthetic import SyntheticSource
from grade_lightning.models.base import DTYPES, BaseLM, as_base, load_base
from grade_lightning.models.policy import Policy
from grade_lightning.models.pretraining import model_config, train_tokenizer
from grade_lightning.rewards.classifier import ClassifierReward
from grade_lightning.rewards.head import RewardHead
from grade_lightning.settings.model import PretrainSettings
from grade_lightning.settings.rollout import RolloutSettings

PROMPT_TOKENS = 32
# Sizes of the model cards.
QWEN3_4B: dict[str, Any] = {
    "vocab_size": 151936,
    "hidden_size": 2560,
    "layers": 36,
    "heads": 32,
    "kv_heads": 8,
    "head_size": 128,
    "mlp_size": 9728,
}
QWEN3_0_6B: dict[str, Any] = {**QWEN3_4B, "hidden_size": 1024, "layers": 28, "heads": 16, "mlp_size": 3072}
GROUP = 4  # completions of a prompt where a method compares them
GROUPED = ("rloo", "annealed")


@dataclass(frozen=True)
class Setting:
    """Sizes of one measurement; the model is the Qwen3 of about 5 million weights unless ``model`` names a folder."""

    rows: int = 16
    new_tokens: int = 64
    vocab_size: int = 8192
    top_k: int = 256
    tau: float = 2.0
    tol: float = 1e-3
    max_hops: int | None = None
    straight_through: bool = True
    hidden_size: int = 256
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_size: int | None = None  # hidden_size / heads if None
    mlp_size: int = 768
    model: str | None = None
    device: str = "cpu"
    precision: str = "fp32"
    kl_coef: float = 0.1
    checkpointing: bool = False

    def rollout(self) -> RolloutSettings:
        """No end of sequence before the last token: all sides write equally many tokens."""
        return RolloutSettings(self.new_tokens, self.new_tokens, self.top_k)


def config_of(setting: Setting) -> PreTrainedConfig:
    """The named model's, or that of a Qwen3 of these sizes."""
    if setting.model is not None:
        return AutoConfig.from_pretrained(setting.model)
    config = model_config(PretrainSettings(
        vocab_size=setting.vocab_size, hidden_size=setting.hidden_size, layers=setting.layers, heads=setting.heads,
        kv_heads=setting.kv_heads, mlp_size=setting.mlp_size, context=512,
    ))  # fmt: skip
    config.head_dim = setting.head_size or config.head_dim
    return config


def tokenizer_of(setting: Setting) -> PreTrainedTokenizerFast:
    """A small one for random weights: its tokens are the first of the model's vocabulary."""
    texts = SyntheticSource(train_rows=2000, test_rows=2, unsupervised_rows=2).load().train.texts
    return train_tokenizer(iter(texts), min(setting.vocab_size, 1400))


def random_model(setting: Setting, device: str) -> PreTrainedModel:
    """A model of these sizes with random weights, made on the device itself."""
    torch.manual_seed(0)
    with torch.device(device):
        return Qwen3ForCausalLM._from_config(config_of(setting), dtype=DTYPES[setting.precision])


def prompts(setting: Setting, base: BaseLM, *, distinct: int | None = None) -> tuple[list[str], PromptBatch]:
    """Openings that are exactly 32 tokens long, as text and as a batch."""
    wanted, found = distinct or setting.rows, []
    for text in SyntheticSource(train_rows=2000, test_rows=2, unsupervised_rows=2).load().train.texts:
        ids = base.tokenizer(text)["input_ids"][:PROMPT_TOKENS]
        cut = base.tokenizer.decode(ids, skip_special_tokens=True)
        if base.tokenizer(cut)["input_ids"] == ids and len(ids) == PROMPT_TOKENS:
            found.append(cut)
        if len(found) == wanted:
            break
    made = make_prompts(found, [0] * len(found), base.tokenizer, max_sentences=99, max_chars=10_000)
    return found, collate(made, int(base.tokenizer.pad_token_id), rows=range(len(made)), step=1).to(setting.device)


def prompts_of(case: str, setting: Setting, base: BaseLM) -> PromptBatch:
    """The batch of a case: a row for each prompt, or for each group of completions."""
    return prompts(setting, base, distinct=setting.rows // (GROUP if case in GROUPED else 1))[1]


def load(setting: Setting) -> tuple[BaseLM, Policy, ClassifierReward]:
    """Model, policy with adapters that already moved, and a reward head with random weights."""
    if setting.model is None:
        base = as_base(random_model(setting, setting.device), tokenizer_of(setting))
    else:
        base = load_base(setting.model, precision=setting.precision)
        base.model.to(setting.device)  # type: ignore[arg-type]
    policy = Policy(base, seed=0, checkpointing=setting.checkpointing)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in policy.trainable().items():
            if "lora_B" in name:
                weight.copy_(0.02 * torch.randn(weight.shape, generator=generator))
    return base, policy, ClassifierReward(policy, RewardHead(policy.embedding.shape[1], seed=0))
