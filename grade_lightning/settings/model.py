"""The base language model and its adapters; the recipe of a small one made here."""

from __future__ import annotations

from pydantic import model_validator

from grade_lightning.settings.fields import Bool, Float, Int, Text, key, settings


@settings
class LoraSettings:
    """Low-rank adapters on the attention projections."""

    r: Int = key("rank", default=16, ge=1)
    alpha: Int = key("the adapters' product is scaled by alpha / r", default=32, ge=1)
    dropout: Float = key("of the adapters' inputs", default=0.0, ge=0, lt=1)
    target_modules: list[Text] | None = key(
        "layers with adapters; null = the architecture's attention projections, or what PEFT chooses for it", default=None, min_length=1
    )


@settings
class PretrainSettings:
    """Shape and recipe of a small base LM in the Qwen3 architecture."""

    vocab_size: Int = key("byte-level BPE tokens, the 256 bytes and two special tokens among them", default=1400, ge=258, le=1_000_000)
    hidden_size: Int = key("width of the states", default=128, ge=8, le=100_000)
    layers: Int = key("transformer layers", default=4, ge=1, le=1000)
    heads: Int = key("attention heads; hidden_size / heads is the size of one", default=4, ge=1)
    kv_heads: Int = key("heads of keys and values", default=2, ge=1)
    mlp_size: Int = key("width of the feed-forward layers", default=384, ge=8, le=1_000_000)
    context: Int = key("longest training sequence in tokens; four times as many positions are declared", default=128, ge=8, le=100_000)
    batch_tokens: Int = key("about how many real tokens one optimizer step sees", default=2048, ge=1)
    epochs: Int = key("passes over the corpus", default=1, ge=1, le=1000)
    lr: Float = key("of AdamW", default=3e-3, gt=0, le=10)
    weight_decay: Float = key("of AdamW", default=0.01, ge=0, le=1e3)
    warmup: Float = key("share of the steps over which the rate rises; then it falls linearly to 0", default=0.05, ge=0, le=1)
    validation_rows: Int = key("reviews held out for perplexity", default=400, ge=1)
    seed: Int = key("of initial weights and order", default=0, ge=0)

    @model_validator(mode="after")
    def _heads(self) -> PretrainSettings:
        if self.hidden_size % (2 * self.heads):
            raise ValueError(f"hidden_size={self.hidden_size} must be an even multiple of heads={self.heads}")
        if self.heads % self.kv_heads:
            raise ValueError(f"heads={self.heads} must be a multiple of kv_heads={self.kv_heads}")
        return self


@settings
class ModelSettings:
    """The base language model: policy, reference and reward read the same frozen copy."""

    lora: LoraSettings = key("the adapters", default=LoraSettings())
    path: Text | None = key("a folder in the Hugging Face layout, or a hub id", default=None)
    revision: Text | None = key("of the hub repository", default=None)
    trust_remote_code: Bool = key("run code that the repository ships", default=False)
    pretrain: PretrainSettings | None = key("make the model here, from the corpus' unlabelled part; null = read it from path", default=None)

    @model_validator(mode="after")
    def _source(self) -> ModelSettings:
        if (self.path is None) == (self.pretrain is None):
            raise ValueError("exactly one of path (a folder or hub id) and pretrain (a recipe: model=tiny) says where the model comes from")
        return self
