"""Which run is which: a short hash of its resolved settings, the same wherever its data and model lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any

PATHS = ("path", "validation_path", "test_path")  # keys that hold a folder, a file or a hub id
NOT_IDENTITY = ("hydra", "run", "logger", "callbacks", "quiet")  # where and how a run is written down and watched, not what it is
START = ("run", "adapter")  # the one key among them that is what a run is, where it is set
# Flags of the trainer that cannot change a result.
HARMLESS = ("profiler", "log_every_n_steps", "detect_anomaly", "enable_progress_bar", "enable_model_summary")


# Keys of later versions and the value that earlier ones had by construction: with it a run keeps the hash it had.
ADDED: dict[str, Any] = {
    "hardware.sharded": False,
    "optimizer.name": "adamw",
    "evaluation.judges": {"classifier": {"_target_": "grade_lightning.rewards.judge.classifier_judge"}},
    "evaluation.best": "reward",
    "evaluation.gradient_parts_every": 10,
    "method.reward_gain": "none",
    "method.gain_every": 1,
    "method.gain_scope": "global",
    "method.gain_form": "regression",
    "method.gain_momentum": 0.95,
    "method.match_kl": False,
    "method.policy_gradient": "rloo",
    "method.prompt_weights": "equal",
    "reward.head.learn_from": "reward",
    "reward.head.rows": None,
    "run.adapter": None,
}
_ABSENT = object()


def redefined(method: Mapping[str, Any]) -> dict[str, str]:
    """What a method's settings, as values or as text, say now where they meant something else in earlier versions."""
    hops, gain, match = (str(method.get(key)) for key in ("max_hops", "reward_gain", "match_kl"))
    changed = {} if hops == "None" else {"max_hops": f"{hops} beyond the direct term"}
    if gain == "calibrated":
        changed["reward_gain"] = "calibrated along earlier gradients"  # and not by products within a step
    if match == "True":
        changed["match_kl"] = "over steps"  # and not each batch by itself
    return changed


def idle(method: Mapping[str, Any]) -> set[str]:
    """Which of a method's settings, as values or as text, decide nothing: how a calibrated gain is learned, where none is."""
    return set() if str(method.get("reward_gain")) == "calibrated" else {key for key in method if key.startswith("gain_")}


def _with_changed(plain: dict[str, Any]) -> dict[str, Any]:
    """A run that has settings with another meaning is not the run that an earlier version made with them."""
    changed = redefined(plain.get("method", {}))
    return {**plain, "method": {**plain["method"], **changed}} if changed else plain


def _without_added(plain: dict[str, Any]) -> dict[str, Any]:
    for name, value in ADDED.items():
        plain = _without(plain, name.split("."), value)
    if unused := idle(plain.get("method", {})):
        plain = {**plain, "method": {key: kept for key, kept in plain["method"].items() if key not in unused}}
    if plain.get("method", {}).get("completions_per_prompt") == 1:  # which relaxed methods could not choose
        plain = {**plain, "method": {key: kept for key, kept in plain["method"].items() if key != "completions_per_prompt"}}
    return plain


def _without_harmless_flags(plain: dict[str, Any]) -> dict[str, Any]:
    """Of the trainer's flags those that are set and might change a result; without any, as earlier versions had it."""
    trainer = plain.get("trainer")
    if not isinstance(trainer, dict):
        return plain
    usual = ("lightning.Trainer", "lightning.pytorch.Trainer", None)
    kept = {key: value for key, value in trainer.items() if key not in HARMLESS and value not in usual}
    return {**plain, "trainer": kept} if kept else {key: value for key, value in plain.items() if key != "trainer"}


def _without(plain: dict[str, Any], path: list[str], value: Any) -> dict[str, Any]:
    """The same without what stands at a path, if it is this value."""
    key, *rest = path
    inside = plain.get(key, _ABSENT)
    if rest:
        return {**plain, key: _without(inside, rest, value)} if isinstance(inside, dict) else plain
    return {other: kept for other, kept in plain.items() if other != key} if inside == value else plain


def _without_folders(value: Any) -> Any:
    """Folders reduced to their last part, so that a run keeps its hash when its data or model moves; hub ids stay whole."""
    if isinstance(value, dict):
        return {key: _without_folder(str(item)) if key in PATHS and item else _without_folders(item) for key, item in value.items()}
    return [_without_folders(item) for item in value] if isinstance(value, list) else value


def _without_folder(path: str) -> str:
    is_hub_id = path.count("/") == 1 and not path.startswith((".", "/", "~")) and not Path(path).exists()
    return path if is_hub_id else PurePath(path).name


def _without_run_folder(adapter: str) -> str:
    """An adapter's folder reduced to its last part; of a run's, which are all called the same, to the run's name and that."""
    parts = PurePath(adapter).parts
    return "/".join(parts[-3:] if parts[-2:-1] == ("checkpoints",) else parts[-1:])


# Import paths that stand in configurations and have moved -> what earlier versions called them.
MOVED = {"grade_lightning.rewards.head_training.trained_classifier": "grade_lightning.models.reward_training.trained_classifier"}
_FORMER_TARGETS = {
    ("reward", "head"): "grade_lightning.models.reward_training.HeadSettings",
    ("model", "pretrain"): "grade_lightning.models.pretraining.PretrainSettings",
}
# Keys that earlier versions had under protocol for every method, and now the methods have that know them.
_FORMER_PROTOCOL = {"gae_axis": "time", "terminal_reward": "last_token", "value_head_dtype": "fp32", "advantage_normalisation": "none"}


_SCOPE_IS_NO_SCORING = {"grade_lightning.rewards.sum.sum_reward", "grade_lightning.rewards.surrogate.surrogate"}


def _with_former_paths(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _with_former_paths(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_with_former_paths(item) for item in value]
    return MOVED.get(value, value) if isinstance(value, str) else value


def _as_formerly_laid_out(plain: dict[str, Any]) -> dict[str, Any]:
    """The same settings under the keys that earlier versions had them under, so that a run keeps its hash."""
    found = dict(plain)
    for (group, key), target in _FORMER_TARGETS.items():
        inner = found.get(group)
        if isinstance(inner, dict) and isinstance(inner.get(key), dict):
            found[group] = {**inner, key: {"_target_": target, **inner[key]}}
    reward, evaluation = found.get("reward"), found.get("evaluation")
    # Earlier versions had no rewards whose scope is another thing or stands in their parts.
    if isinstance(evaluation, dict) and isinstance(reward, dict) and reward.get("_target_") not in _SCOPE_IS_NO_SCORING:
        scope = evaluation.get("scope", "full")  # earlier versions evaluated prompt and completion, whatever training scored
        if "full" in (scope, reward.get("scope", "full") if scope == "reward" else None):
            found["evaluation"] = {key: value for key, value in evaluation.items() if key != "scope"}
    protocol, method = found.get("protocol"), found.get("method")
    if isinstance(protocol, dict) and isinstance(method, dict):
        former = {key: method.get(key, protocol.get(key, default)) for key, default in _FORMER_PROTOCOL.items()}
        if protocol.get("form") == "own" and "value_head_dtype" not in method:  # the released protocol said so to all methods
            former["value_head_dtype"] = "bf16"
        found["protocol"] = {**{key: value for key, value in protocol.items() if key != "form"}, **former}
    return found


def as_laid_out_now(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Settings that an earlier version wrote, under the keys of this one."""
    found = {key: dict(value) if isinstance(value, dict) else value for key, value in plain.items()}
    for group, key in _FORMER_TARGETS:
        inner = found.get(group)
        if isinstance(inner, dict) and isinstance(inner.get(key), dict):
            inner[key] = {name: value for name, value in inner[key].items() if name != "_target_"}
    now = {former: target for target, former in MOVED.items()}
    for value in found.values():
        if isinstance(value, dict) and str(value.get("_target_")) in now:
            value["_target_"] = now[value["_target_"]]
    if isinstance(found.get("evaluation"), dict):
        found["evaluation"].setdefault("scope", "full")
    wandb = (found.get("logger") or {}).get("wandb")
    if isinstance(wandb, dict) and "_target_" not in wandb:  # the one logger that there was
        found["logger"]["wandb"] = {"_target_": "grade_lightning.tracking.wandb_logger", **wandb}
    if isinstance(found.get("protocol"), dict):
        found["protocol"] = {key: value for key, value in found["protocol"].items() if key not in _FORMER_PROTOCOL}
    return found


def run_hash(resolved: Mapping[str, Any], *, without: tuple[str, ...] = ()) -> str:
    """A short hash of resolved settings without paths (and without the named root keys).

    Args:
        resolved: plain dictionaries, lists and scalars; a value that is missing reads ``???``.
    """
    plain = {key: value for key, value in resolved.items() if key not in NOT_IDENTITY + without}
    group, key = START
    if (start := (resolved.get(group) or {}).get(key)) is not None:
        plain[group] = {key: _without_run_folder(str(start))}
    plain = _without_harmless_flags(plain)
    plain = _without_folders(_with_former_paths(_as_formerly_laid_out(_with_changed(_without_added(plain)))))
    return hashlib.sha256(json.dumps(plain, sort_keys=True).encode()).hexdigest()[:8]
