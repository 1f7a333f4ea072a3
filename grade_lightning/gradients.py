"""How good are the gradients?  ``python -m grade_lightning.gradients methods=rloo,grade_ste [KEY=VALUE ...] [OVERRIDES ...]``

Keys of the study:
  methods     comma-separated, rloo among them (the unbiased reference); options after colons: grade_ste:tau=1, grade_ste:max_hops=0,
              grade_ste:rollouts=16 (completions of each draw)
  checkpoint  a run folder whose last adapter is measured (model, data and sampling come from the overrides, not from it);
              without it, the initial policy with perturbed adapters
  prompts     how many (default 64); draws: independent noise draws of each, at least 2 (default 2); rollouts: completions of each draw (4)
  relaxed_rollouts  completions of each draw of relaxed methods, whose gradients vary far less (default: rollouts)
  group       completions of a prompt that rloo and grpo compare, a divisor of rollouts (default: 4 at most)
  step        policy step whose temperature and shares are measured (default 1: the start of the schedule, where annealed is
              straight-through alone)
  perturb     standard deviation of the initial lora_B (default 0.02): at 0 half of the gradient is 0
  part        reward or kl: the gradient of one of them alone, as a run with a KL has it (default all)
  sketch      numbers kept of each gradient (default 8192)
  out         where results go (default: outputs/gradients); an interrupted study goes on when the command is repeated

Everything else is an override of a run's configuration (experiment=..., data.path=..., max_new_tokens=...).  kl_coef is 0 unless given:
the gradient of the expected reward.
"""

from __future__ import annotations

import hashlib
import logging
import sys
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig
from tqdm import tqdm

from grade_lightning.arguments import command
from grade_lightning.compose import composed, config_hash, settings_of
from grade_lightning.records.text import json_text
from grade_lightning.settings import Settings
from grade_lightning.study.plan import REFERENCE, Study, folder_of, group_of, overrides_of, parse, parse_method, rollouts_of

log = logging.getLogger(__name__)


def _check_reward(settings: Settings) -> None:
    if getattr(settings.reward.settings, "learns", False):
        raise ValueError("a surrogate has no gradient before it has seen completions: measure the gradients of another reward")


def _check_same_sampler(all_settings: dict[str, Settings]) -> None:
    reference = all_settings[REFERENCE]
    for spec, settings in all_settings.items():
        if settings.rollout != reference.rollout:
            raise ValueError(f"{spec} samples otherwise than {REFERENCE}: their gradients belong to different policies")
        if settings.protocol.logprobs != "matched":
            raise ValueError("protocol.logprobs=full makes the reference biased: leave it at matched")


def configuration(spec: str, study: Study) -> DictConfig:
    """The run configuration that one method is built from.

    Raises:
        ValueError: Hydra refuses an override.
    """
    given = any(o.startswith("kl_coef=") for o in study.overrides)
    base = [] if given or study.part == "kl" else ["kl_coef=0"]
    try:
        return composed([*base, *overrides_of(spec, study), f"run.dir={study.out}", *study.overrides])
    except ValueError as error:
        raise ValueError(f"{spec}: {error}") from error


def _place(policy: Any, study: Study) -> None:
    """Load the checkpoint, or move the adapters off their zero start."""
    from grade_lightning.study.units import perturb

    if study.checkpoint is not None:
        policy.load_adapter(study.adapter)
    else:
        perturb(policy, study.perturb)


def _measure(study: Study) -> dict[str, Any]:
    """Draw all units, prompt by prompt, each prompt by every method in turn.  -> stores by method."""
    from grade_lightning.build import build_method
    from grade_lightning.data.prompts import collate
    from grade_lightning.estimators import gumbel_noise
    from grade_lightning.rollout.noise import keyed_generator
    from grade_lightning.setup import inputs, objects
    from grade_lightning.study.sketch import CountSketch
    from grade_lightning.study.store import UnitStore
    from grade_lightning.study.units import UnitSampler

    configs = {spec: configuration(spec, study) for spec in study.methods}
    all_settings = {spec: settings_of(cfg) for spec, cfg in configs.items()}
    _check_same_sampler(all_settings)
    first = next(iter(all_settings.values()))
    _check_reward(first)
    found = inputs(first)
    found.check()
    made = objects(found, judges=False)
    policy, data = made.policy, made.data()
    if study.checkpoint is not None or found.adapter is None:
        _place(policy, study)
    data.setup()
    prompts, rollout = data.prompts["policy"][: study.prompts], first.rollout
    if len(prompts) < study.prompts:
        raise ValueError(f"the policy split has {len(prompts)} prompts: lower prompts={study.prompts} or raise data.policy_rows")
    part = None if study.part == "all" else study.part
    samplers = {
        spec: UnitSampler(build_method(settings.method, made.context(settings)), step=study.step, part=part)
        for spec, settings in all_settings.items()
    }  # fmt: skip
    sketch = CountSketch(sum(w.numel() for w in policy.trainable().values()), study.sketch)

    def unit(spec: str, row: int, draw: int) -> Any:
        generator = keyed_generator("gradients", first.seed, prompts[row].key, draw)
        count = rollouts_of(spec, study)
        # Drawn for all and cut, so that methods share what completions they have.
        noise = gumbel_noise((study.rollouts, rollout.max_new_tokens, rollout.top_k), generator=generator)[:count]
        batch = collate([prompts[row]], policy.pad_id, rows=[row], step=1).repeat(count).to(policy.device)
        return samplers[spec].unit(batch, noise)

    pilot = sum(unit(REFERENCE, row, -1).reward for row in range(min(8, study.prompts))) / min(8, study.prompts)
    for sampler in samplers.values():
        sampler.baseline = pilot
    place = {
        "adapter": None if study.checkpoint is None else hashlib.sha256(study.adapter.read_bytes()).hexdigest(), "perturb": study.perturb,
        "step": study.step, "splits": found.splits.fingerprints, "reward": made.reward_report, **({} if part is None else {"part": part}),
    }  # fmt: skip
    stores = {}
    for spec, cfg in configs.items():
        kept = {**place, "rollouts": rollouts_of(spec, study), "config": config_hash(cfg), "model": made.base.fingerprint}
        folder = study.out / folder_of(spec)
        stores[spec] = UnitStore(folder, prompts=study.prompts, draws=study.draws, sketch=sketch, settings=kept)
    for row in tqdm(range(study.prompts), desc="prompts"):
        for spec, store in stores.items():
            if store.done <= row:
                store.add([unit(spec, row, draw) for draw in range(study.draws)])
    return stores


def _cost(units: Any) -> dict[str, float]:
    """Of one rollout."""
    return {"rollouts": 1.0, "tokens": units.tokens / units.rollouts, "seconds": units.seconds / units.rollouts}


def analyse(study: Study, stores: dict[str, Any]) -> dict[str, Any]:
    """Every number of the study, with intervals."""
    from grade_lightning.study.moments import Inner, bootstrap, crossover, crossover_intervals, hybrid_alignment

    units = {spec: store.units(rollouts_of(spec, study), group_of(spec, study)) for spec, store in stores.items()}
    reference = units[REFERENCE]
    base, estimators = Inner(reference, reference), {}
    base_cost, base_curve = _cost(reference), base.curve()
    for spec, own in units.items():
        inner, cost = Inner(own, reference), _cost(own)
        curve, costs = inner.curve(), {name: (cost[name], base_cost[name]) for name in cost}
        estimators[spec] = {
            "numbers": inner.numbers(), "intervals": bootstrap(inner.numbers, study.prompts), "curve": curve, "cost": cost,
            "crossovers": {} if spec == REFERENCE else {name: crossover(curve, base_curve, *costs[name]) for name in costs},
            "crossover_intervals": {} if spec == REFERENCE else crossover_intervals(inner, base, costs, study.prompts),
            "tensor_spread": float(stores[spec].column("tensor_spread").mean()), "seconds_per_rollout": cost["seconds"],
            "reward": float(stores[spec].column("reward").mean()),
        }  # fmt: skip
    found: dict[str, Any] = {
        "prompts": study.prompts, "draws": study.draws, "rollouts": study.rollouts,
        "relaxed_rollouts": study.relaxed_rollouts, "group": study.group, "reference": REFERENCE, "perturb": study.perturb,
        "step": study.step, "checkpoint": None if study.checkpoint is None else study.checkpoint.name, "overrides": study.overrides,
        "estimators": estimators,
    }  # fmt: skip
    # The hybrid's parents share their completions.
    same = [spec for spec in units if units[spec].rollouts == reference.rollouts]
    straight_through = [spec for spec in same if parse_method(spec)[0] == "grade_ste" and "max_hops" not in spec]
    if study.prompts >= 12:
        found["hybrid"] = {spec: hybrid_alignment(reference, units[spec]) for spec in straight_through}
    return found


def _drawn(arguments: Sequence[str]) -> tuple[Study, dict[str, Any]]:
    study = parse(arguments)
    study.check()
    return study, _measure(study)


def _show(drawn: tuple[Study, dict[str, Any]]) -> None:
    """Write results, figure and table, and print the table."""
    from grade_lightning.study.output import figure, for_json, table
    from grade_lightning.training.environment import environment

    study, stores = drawn
    found = analyse(study, stores)
    (study.out / "results.json").write_text(json_text({**for_json(found), "environment": environment()}))
    figure(found, study.out)
    text = table(found).markdown()
    (study.out / "table.md").write_text(text)
    print(text)
    for spec, row in found.get("hybrid", {}).items():
        values = ", ".join(f"{name} {row[name]['rho']:.3f}" for name in ("rloo", "straight_through", "hybrid"))
        print(f"rho_{row['rollouts']} of the hybrid of rloo and {spec}: {values}")
    print(f"written to {study.out}")


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a study that cannot be made."""
    return command(__doc__, arguments, _drawn, _show)


if __name__ == "__main__":
    sys.exit(main())
