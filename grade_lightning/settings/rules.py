"""Which settings go together: each rule names the key that is at fault and says what would work."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from grade_lightning.settings.data import PromptDataSettings
from grade_lightning.settings.fields import Component, fields_of
from grade_lightning.settings.relaxed import AnnealedSettings
from grade_lightning.settings.rollout import ProtocolSettings
from grade_lightning.settings.root import Settings

Fault = tuple[str, str]  # key, what is wrong and what to do


def kl_faults(protocol: ProtocolSettings, *, relaxed: bool) -> Iterator[Fault]:
    """What a method cannot do with the KL.

    Args:
        relaxed: the method differentiates through relaxed tokens.
    """
    if relaxed and protocol.kl_in == "reward":
        yield "protocol.kl_in", "this method differentiates the exact KL as part of its loss: use loss or none"
    if relaxed and protocol.kl_estimator != "exact":
        yield "protocol.kl_estimator", "this method differentiates the exact KL: use exact"
    if not relaxed and protocol.kl_alignment == "shifted":
        yield "protocol.kl_alignment", "the shifted KL is measured by relaxed methods alone: leave it at correct"
    if not relaxed and protocol.kl_in == "reward" and protocol.kl_estimator not in ("k1", "k1_mean"):
        yield (
            "protocol.kl_in",
            (
                f"with protocol.kl_estimator={protocol.kl_estimator} a reward has not the gradient of the KL: it credits a token "
                "with its own KL only through log p - log q of that token. Add protocol.kl_estimator=k1, or use protocol.kl_in=loss"
            ),
        )


def _kl(s: Settings) -> Iterator[Fault]:
    yield from kl_faults(s.protocol, relaxed=s.method_settings.relaxed)


def _form(s: Settings) -> Iterator[Fault]:
    if s.protocol.form == "none":
        yield (
            "protocol.form",
            (
                f"the protocol {s.names.protocol} says what to do for grade, grade_ste and its straight-through variants, ppo "
                f"and reinforce, and not for {s.names.method}: choose one of these methods, or protocol=controlled or paper"
            ),
        )


def _batch(s: Settings) -> Iterator[Fault]:
    size, method = s.effective_batch_size, s.method_settings
    whole = method.chunks * method.completions_per_prompt
    if size % whole:
        parts = f"{method.chunks} parts of " if method.chunks > 1 else ""
        yield (
            "effective_batch_size",
            (
                f"this method needs {parts}whole groups of {method.completions_per_prompt} completions a prompt: "
                f"make it a multiple of {whole}"
            ),
        )
    if s.hardware.grad_accumulation > size:
        yield "hardware.grad_accumulation", f"it cannot split {size} completions: lower it, or raise effective_batch_size"
    batch_normalised = getattr(method, "advantage_normalisation", "none") == "batch"
    if batch_normalised and size < 2:
        yield "effective_batch_size", "one completion has no standard deviation: raise it, or use method.advantage_normalisation=none"


def _optimizer(s: Settings) -> Iterator[Fault]:
    if s.optimizer.name != "adamw" and s.method_settings.clipped_extras:
        yield "optimizer.name", "PPO's value head would be trained with the policy's clipped steps, that is not at all: use adamw"


NOT_DIFFERENTIABLE = (
    "this method differentiates the reward, and this reward has no gradient: use a policy gradient (method=rloo), or a reward that is "
    "differentiable (reward=classifier_head or sequence_classifier), or reward=surrogate, which learns a gradient from this one's values"
)
NO_MIXTURES = (
    "soft GRADE feeds mixtures of tokens forward, which have no text that this reward could read: use method=grade_ste, or "
    "reward=classifier_head"
)


def _relaxation(s: Settings) -> Iterator[Fault]:
    method = s.method_settings
    relaxation, temperature = getattr(method, "relaxation", None), getattr(method, "temperature", None)
    if isinstance(relaxation, Component) and not relaxation.partial:
        yield "method.relaxation._partial_", "a relaxation is a function that gets logits and noise later: set it to true"
    metric = getattr(getattr(temperature, "settings", None), "metric", None)
    if metric == "first_ratio" and getattr(method, "backprop", "adjoint") != "adjoint":
        yield "temperature.metric", "first_ratio is measured by the adjoint alone: use largest_weight, or method.backprop=adjoint"
    if metric == "first_ratio" and isinstance(method, AnnealedSettings) and method.max_hops == 0:
        yield "temperature.metric", "without hops this method does not measure first_ratio: use largest_weight, or method.max_hops=null"


NEEDS_SURROGATE = (
    "this method adds what a surrogate leaves of the reward: use reward=surrogate (with reward@reward.of=OPTION for any other reward than "
    "a function)"
)


def _reward(s: Settings) -> Iterator[Fault]:
    facts = s.reward.settings
    if s.method_settings.needs_surrogate and not getattr(facts, "learns", False):
        yield "reward", NEEDS_SURROGATE
    if s.method_settings.needs_gradient and not getattr(facts, "differentiable", True):
        yield "reward", NOT_DIFFERENTIABLE
    elif s.method_settings.feeds_mixtures and not getattr(facts, "soft", True):
        yield "reward", NO_MIXTURES


def _scope(s: Settings) -> Iterator[Fault]:
    if s.evaluation.scope != "reward" and not getattr(s.reward.settings, "scoped", True):
        yield "evaluation.scope", "this reward has no scope: leave it at reward"


def _watch(s: Settings) -> Iterator[Fault]:
    method = s.method_settings
    if s.evaluation.gradient_cosine_every and not (method.relaxed and method.one_gradient):
        yield "evaluation.gradient_cosine_every", "it watches GRADE's gradient: leave it at 0 for other methods"


def _vocabulary(s: Settings) -> Iterator[Fault]:
    pretrain = s.model.pretrain
    if pretrain is None:
        return
    for name, top_k in (("rollout.top_k", s.rollout.top_k), ("evaluation.sampling.top_k", s.evaluation.sampling.top_k)):
        if top_k > pretrain.vocab_size:
            yield name, f"top_k={top_k} is above the vocabulary size {pretrain.vocab_size:,}: lower it"


def _positions(s: Settings) -> Iterator[Fault]:
    pretrain = s.model.pretrain
    longest = s.data.prompt.max_tokens + s.max_new_tokens
    if pretrain is not None and longest > 4 * pretrain.context:
        yield (
            "max_new_tokens",
            (
                f"prompt and completion of {longest:,} tokens exceed the {4 * pretrain.context:,} positions of the model: lower it, "
                "or data.prompt.max_tokens, or raise model.pretrain.context"
            ),
        )
    if pretrain is not None and getattr(s.reward.settings, "head", None) and s.reward.settings.head.text_tokens > 4 * pretrain.context:
        yield "reward.head.text_tokens", f"the model has {4 * pretrain.context:,} positions: lower it"


def _source(s: Settings) -> Iterator[Fault]:
    if isinstance(s.data, PromptDataSettings):
        return
    takes = fields_of(type(s.data.source.settings))
    for name in ("path", "revision"):
        if getattr(s.data, name) is not None and takes and name not in takes:
            yield f"data.{name}", f"data={s.names.data} reads nothing from there: leave it out, or choose data=parquet, aclimdb or hub"


def _unlabelled(s: Settings) -> Iterator[Fault]:
    """A user's prompts are no labelled reviews."""
    if not isinstance(s.data, PromptDataSettings):
        return
    if getattr(s.reward.settings, "labelled", False):
        yield (
            "reward._target_",
            (
                f"this reward learns from labelled reviews, and data={s.names.data} has none: choose reward=function, "
                "reward=sequence_classifier, or labelled reviews (data=parquet, aclimdb, hub or synthetic)"
            ),
        )
    if s.model.pretrain is not None:
        yield (
            "model.pretrain",
            (
                f"data={s.names.data} has no reviews that a base LM could be pretrained on: use model=local with model.path=FOLDER "
                "(python -m grade_lightning.pretrain makes one), or a model of the hub"
            ),
        )


_SECRET = re.compile(r"(^|_)((api|access|secret|private)_?key|token|password|passwd|secret|credentials?)$", re.IGNORECASE)
_NO_SECRETS = (
    "what stands in the configuration is written to config.yaml: leave it out and use the environment variable that this library reads"
)


def _secrets(s: Settings) -> Iterator[Fault]:
    """Loggers and callbacks of others may take passwords; a configuration is no place for them."""
    for group, components in (("logger", s.logger), ("callbacks", s.callbacks)):
        for name, component in components.items():
            values = component.settings if isinstance(component.settings, dict) else vars(component.settings)
            for key, value in values.items():
                if value is not None and (_SECRET.search(key) or (isinstance(value, str) and _has_password(value))):
                    yield f"{group}.{name}.{key}", _NO_SECRETS


def _has_password(value: str) -> bool:
    """Whether a value is an address with a password in it."""
    try:
        return "://" in value and urlsplit(value).password is not None
    except ValueError:
        return False


def _max_time(s: Settings) -> Iterator[Fault]:
    given = getattr(s.trainer.settings, "max_time", None)
    if given is not None and not re.fullmatch(r"\d+:\d\d:\d\d:\d\d", given):
        yield "trainer.max_time", "it is DD:HH:MM:SS, such as 00:01:30:00 for an hour and a half"


Rule = Callable[[Settings], Iterator[Fault]]
RULES: tuple[Rule, ...] = (
    _form,
    _relaxation,
    _kl,
    _reward,
    _scope,
    _batch,
    _optimizer,
    _watch,
    _vocabulary,
    _positions,
    _source,
    _unlabelled,
    _secrets,
    _max_time,
)


def faults(settings: Settings) -> list[Fault]:
    """Every broken rule."""
    return [fault for rule in RULES for fault in rule(settings)]
