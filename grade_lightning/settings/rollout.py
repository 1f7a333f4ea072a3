"""How completions are sampled, and the decisions in which the paper, its code and a fair comparison differ."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from grade_lightning.settings.fields import Bool, Float, Int, key, settings

Context = Literal["full", "last_token"]
Cache = Literal["auto", "growing", "static"]


@settings
class RolloutSettings:
    """How completions are sampled, in training and evaluation alike."""

    max_new_tokens: Int = key("longest completion, in tokens", default=64, ge=1, le=1_000_000)
    min_new_tokens: Int = key("before this many tokens the end of sequence is banned", default=8, ge=0)
    top_k: Int = key("candidates a token is drawn from, and the support of log-probabilities", default=256, ge=1)
    top_p: Float = key("of the candidates, the fewest that hold this much probability are drawn from; 1 = all", default=1.0, gt=0, le=1)
    sampling_temperature: Float = key(
        "logits are divided by it before a token is drawn (decoding; not the relaxation's tau)", default=1.0, gt=0, le=1000
    )
    context: Context = key(
        "what a token is drawn from: all before it, or (last_token) for each token after the first the previous one alone, as transformers "
        "samples in train mode with gradient checkpointing, where it drops the cache", default="full",
    )  # fmt: skip
    cache: Cache = key(
        "of keys and values: growing, static (written in place), or auto: on CUDA static with each step a CUDA graph, elsewhere growing",
        default="auto",
    )
    stop_at_eos: Bool = key("false: an end of sequence is a token like any other and a completion has max_new_tokens tokens", default=True)

    @model_validator(mode="after")
    def _lengths(self) -> RolloutSettings:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError(f"min_new_tokens={self.min_new_tokens} must not exceed max_new_tokens={self.max_new_tokens}")
        return self

    def check(self, vocab_size: int) -> None:
        """Raise ValueError where the settings cannot work with this vocabulary."""
        if self.top_k > vocab_size:
            raise ValueError(f"rollout.top_k={self.top_k} is above the vocabulary size {vocab_size:,}: lower rollout.top_k")


@settings
class DecodingSettings:
    """How evaluation draws tokens: one hard sample a prompt."""

    top_k: Int = key("candidates a token is drawn from", default=256, ge=1)
    top_p: Float = key("of these, the fewest that hold this much probability", default=1.0, gt=0, le=1)
    sampling_temperature: Float = key("logits are divided by it", default=1.0, gt=0, le=1000)


@settings
class ProtocolSettings:
    """Decisions in which the paper, its released code and a fair comparison differ."""

    kl_reduction: Literal["token_mean", "sequence"] = key(
        "the KL per real token of the effective batch, or summed over a completion (eq. 16 read literally)", default="token_mean"
    )
    kl_in: Literal["loss", "reward", "none"] = key(
        "where the KL enters; it is measured in any case. As a reward (policy gradients only) its k1 estimate is the full gradient only "
        "where tokens are drawn from the whole vocabulary and none is banned", default="loss",
    )  # fmt: skip
    kl_estimator: Literal["exact", "k1", "k2", "k3", "k1_mean"] = key(
        "exact over the whole vocabulary, or (policy gradients only) from the sampled tokens; k1_mean is the mean of k1 over a completion",
        default="exact",
    )
    kl_alignment: Literal["correct", "shifted"] = key(
        "shifted (relaxed methods only) also logs kl_shifted, the policy at t against the reference at t + 1", default="correct"
    )
    logprobs: Literal["matched", "full"] = key(
        "log-probabilities of the distribution that was sampled from, or over the whole vocabulary at temperature 1", default="matched"
    )
    rollout_context: Context = key("see rollout.context", default="full")
    stop_at_eos: Bool = key("see rollout.stop_at_eos", default=True)
    dropout_in_rollouts: Bool = key("LoRA dropout acts while sampling as well as in the gradient pass", default=False)
    anneal_steps: Int = key("policy steps over which the temperature schedules run", default=60, ge=1)
    form: Literal["any", "own", "none"] = key(
        "any: the protocol treats all methods alike; own: it says something of this very method (conf/protocol_method); none: it should "
        "and does not, so that the run is refused", default="any",
    )  # fmt: skip
