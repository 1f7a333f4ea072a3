"""What a gradient study measures: its keys, its methods and how many completions each gets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from grade_lightning.settings.describe import method_facts

REFERENCE = "rloo"
PARTS = ("all", "reward", "kl")


@dataclass
class Study:
    """The study's own keys, as ``python -m grade_lightning.gradients --help`` explains them."""

    methods: list[str] = field(default_factory=lambda: [REFERENCE, "grade_ste"])
    checkpoint: Path | None = None
    prompts: int = 64
    draws: int = 2
    rollouts: int = 4
    relaxed_rollouts: int = 0  # parse() puts defaults for 0
    group: int = 0
    step: int = 1
    perturb: float = 0.02
    sketch: int = 8192
    part: str = "all"
    out: Path = Path("outputs/gradients")
    overrides: list[str] = field(default_factory=list)

    def check(self) -> None:
        """Raise ValueError with a remedy, before anything is loaded."""
        least = {"prompts": 3, "draws": 2, "rollouts": 2, "relaxed_rollouts": 1, "group": 2, "sketch": 16, "step": 1}
        for name, smallest in least.items():
            if getattr(self, name) < smallest:
                raise ValueError(f"{name} must be at least {smallest}, got {getattr(self, name)}")
        if self.rollouts % self.group:
            raise ValueError(f"rollouts={self.rollouts} must be a multiple of group={self.group}, what {REFERENCE} compares")
        if self.relaxed_rollouts > self.rollouts:
            raise ValueError(f"relaxed_rollouts={self.relaxed_rollouts} must not exceed rollouts={self.rollouts}")
        if REFERENCE not in self.methods:
            raise ValueError(f"methods must hold {REFERENCE}: its mean is the unbiased gradient that the others are compared with")
        if self.part not in PARTS:
            raise ValueError(f"part={self.part} is unknown: use one of {', '.join(PARTS)}")
        for spec in self.methods:
            if rollouts_of(spec, self) % group_of(spec, self):
                raise ValueError(f"{spec}: its rollouts must be a multiple of group={self.group}")
        if len(set(self.methods)) < len(self.methods):
            raise ValueError("a method stands twice in methods=")
        if self.checkpoint is not None and not self.adapter.exists():
            raise ValueError(f"checkpoint={self.checkpoint} is no run folder with checkpoints/last/adapter_model.safetensors")

    @property
    def adapter(self) -> Path:
        assert self.checkpoint is not None
        return self.checkpoint / "checkpoints" / "last" / "adapter_model.safetensors"


def parse(arguments: Sequence[str]) -> Study:
    """Command line -> study.

    Raises:
        ValueError: a value of the wrong kind.
    """
    study = Study()
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "methods":
            study.methods = [method for method in value.strip("[]").replace(" ", "").split(",") if method]
        elif key == "part":
            study.part = value
        elif key in ("checkpoint", "out"):
            setattr(study, key, Path(value))
        elif key in ("prompts", "draws", "rollouts", "relaxed_rollouts", "group", "sketch", "step", "perturb"):
            try:
                setattr(study, key, float(value) if key == "perturb" else int(value))
            except ValueError:
                raise ValueError(f"{argument} is not a number") from None
        else:
            study.overrides.append(argument)
    study.group = study.group or min(4, study.rollouts)
    study.relaxed_rollouts = study.relaxed_rollouts or study.rollouts
    return study


def parse_method(spec: str) -> tuple[str, dict[str, str]]:
    """``grade_ste:tau=1:max_hops=0`` -> the method's name and its options."""
    name, *options = spec.split(":")
    for option in options:
        if "=" not in option:
            raise ValueError(f"{spec}: options are KEY=VALUE")
    return name, dict(option.split("=", maxsplit=1) for option in options)


def folder_of(spec: str) -> str:
    """Name of the folder with the method's units."""
    return spec.replace(":", "-")


def overrides_of(spec: str, study: Study) -> list[str]:
    """Of a run's configuration."""
    name, options = parse_method(spec)
    found = [f"method={name}"]
    facts = method_facts(name)
    if not facts.one_gradient:
        raise ValueError(f"{name} has no gradient of a single batch to measure; of the hybrid, rloo and grade_ste are the parents")
    if facts.grouped:
        found.append(f"method.completions_per_prompt={study.group}")
    for key, value in options.items():
        if key == "tau":
            found += ["temperature=constant", f"temperature.value={value}"]
        elif key != "rollouts":
            found.append(f"method.{key}={value}")
    return found


def rollouts_of(spec: str, study: Study) -> int:
    """Completions of one draw: an option of the method's, or as the study says."""
    name, options = parse_method(spec)
    own = options.get("rollouts")
    if own is None:
        return study.relaxed_rollouts if method_facts(name).relaxed else study.rollouts
    if not own.isdecimal() or not 1 <= int(own) <= study.rollouts:
        raise ValueError(f"{spec}: rollouts must lie between 1 and the study's rollouts={study.rollouts}")
    return int(own)


def group_of(spec: str, study: Study) -> int:
    """Completions of the same prompt in a batch of the method."""
    return study.group if method_facts(parse_method(spec)[0]).grouped else 1
