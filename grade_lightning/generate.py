"""Continuations before and after training: ``python -m grade_lightning.generate run=DIR prompt="..."``.

Keys: ``run`` (a finished run folder), ``prompt`` (text; repeat the key for several), ``samples`` (of each prompt, default 1),
``seed`` (of the sampling noise, default 0), ``columns`` (a JSON object: what else the reward is told of the prompts),
``checkpoint`` (``last`` or ``best``), ``judges`` (``true``: what the run's judges think too, which may have to be trained first),
``trust`` (``true``: import code from outside this package that the run's configuration names).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from grade_lightning.arguments import command, flag
from grade_lightning.measurements import is_own
from grade_lightning.settings.of_run import check_run, settings_of_run

if TYPE_CHECKING:
    from grade_lightning.models.policy import Policy

log = logging.getLogger(__name__)

COLUMNS = (
    ("reward", ".2f"), ("completion_reward", ".2f"), ("judge", ".2f"), ("perplexity", ".1f"), ("kl_per_token", ".3f"), ("tokens", "d"),
    ("distinct_2", ".2f"), ("repeated_4", ".2f"),
)  # fmt: skip


@dataclass
class Request:
    """What to generate; see the module's docstring."""

    run: Path
    prompts: list[str] = field(default_factory=list)
    samples: int = 1
    seed: int = 0
    checkpoint: str = "last"
    judges: bool = False
    trust: bool = False
    columns: Sequence[Mapping[str, object]] = ()  # of each prompt, what else the reward is told; [] = nothing

    def check(self) -> None:
        """Raise ValueError with a remedy, before anything is loaded."""
        check_run(self.run, self.checkpoint)
        if not all(isinstance(prompt, str) for prompt in self.prompts):
            raise ValueError(
                "prompts are texts to continue, or in Python rows with a text as prompt; of a chat give the text that the model's chat "
                "template makes of it"
            )
        if not self.prompts or not all(prompt.strip() for prompt in self.prompts):
            raise ValueError('give the beginning of a review, or another text to continue: prompt="..."')
        if self.columns and len(self.columns) != len(self.prompts):
            raise ValueError(f"{len(self.prompts)} prompts have columns {len(self.columns)} times: give a mapping for each prompt")
        if self.samples < 1:
            raise ValueError(f"samples must be at least 1, got {self.samples}")
        if not self.adapter.exists():
            raise ValueError(f"{self.adapter} is missing: the run kept no such checkpoint (records without weights cannot generate)")
        from grade_lightning.models.adapters import read_adapter

        read_adapter(self.adapter.parent)  # a file that is none is refused now

    @property
    def adapter(self) -> Path:
        return self.run / "checkpoints" / self.checkpoint / "adapter_model.safetensors"


def parse(arguments: Sequence[str]) -> Request:
    """``key=value`` arguments -> a request.

    Raises:
        ValueError: an argument of another form, an unknown key, no run.
    """
    values: dict[str, str] = {}
    prompts = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if not equals or key not in ("run", "prompt", "samples", "seed", "columns", "checkpoint", "judges", "trust"):
            raise ValueError(
                f"{argument!r} is not understood: use run=DIR prompt=TEXT [samples=N] [seed=N] [columns=JSON] [checkpoint=last|best] "
                "[judges=true] [trust=true]"
            )
        if key == "prompt":
            prompts.append(value)
        else:
            values[key] = value
    if "run" not in values:
        raise ValueError("name the folder of a finished run: run=DIR")
    for key in ("samples", "seed"):
        if key in values and not values[key].lstrip("-").isdigit():
            raise ValueError(f"{key}={values[key]} is not a whole number")
    numbers = {key: int(values[key]) for key in ("samples", "seed") if key in values}
    chosen = {key: flag(values, key) for key in ("judges", "trust")}
    columns = [_object(values["columns"])] * len(prompts) if "columns" in values else ()
    return Request(
        Path(values["run"]), prompts, checkpoint=values.get("checkpoint", "last"), columns=columns, **numbers, **chosen,  # type: ignore[arg-type]
    )  # fmt: skip


def _object(text: str) -> dict[str, object]:
    try:
        found = json.loads(text)
    except json.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise ValueError(f"""columns={text} is no JSON object: write columns='{{"answer": "4"}}' for instance""")
    return found


def generate(request: Request) -> list[dict[str, dict[str, object]]]:
    """For each prompt and sample, what evaluation measures of the ``before`` and the ``after`` continuation, and their texts."""
    request.check()
    settings = settings_of_run(request.run, trust=request.trust)
    from grade_lightning.data.prompts import Prompt, clean_html, collate
    from grade_lightning.evaluation.evaluator import evaluate_batch
    from grade_lightning.rewards.base import evaluation_reward
    from grade_lightning.rewards.function import MissingColumns
    from grade_lightning.rewards.kept import kept_reward
    from grade_lightning.setup import inputs, objects

    found = inputs(replace(settings, run=replace(settings.run, adapter=None)))  # whatever it started from
    found.check(prompts=False)
    made = objects(found, judges=request.judges, kept=lambda policy: kept_reward(settings.reward, policy, request.run))
    policy, data = made.policy, settings.data
    policy.load_adapter(request.adapter)
    texts = [text for text in request.prompts for _ in range(request.samples)]
    most = min(data.prompt.max_tokens, _room(policy, settings.max_new_tokens))
    texts = [clean_html(text) for text in texts] if getattr(data, "clean_html", False) else texts
    encoded = [policy.tokenizer(text)["input_ids"] for text in texts]
    if not all(encoded):
        raise ValueError("a prompt has no tokens (HTML marks of reviews are removed): give a text to continue")
    if max(map(len, encoded)) > most:
        log.warning("a prompt is longer than the %d tokens that this run was trained with: only its first %d are read", most, most)
    # Each sample has noise of its own, the same before and after.
    columns = [one for one in request.columns or [{}] * len(request.prompts) for _ in range(request.samples)]
    prompts = [Prompt(tuple(ids[:most]), key=row, label=-1, text=texts[row], columns=columns[row]) for row, ids in enumerate(encoded)]
    batch = collate(prompts, policy.pad_id, rows=range(len(prompts))).to(policy.device)
    rollout, reward, measured = settings.evaluation_rollout, evaluation_reward(made.reward, settings.evaluation.scope), []
    for initial in (True, False):
        try:
            measured.append(
                evaluate_batch(policy, reward, batch, rollout, seed=request.seed, initial=initial, detailed=True, judges=made.judges)
            )
        except MissingColumns as error:
            given = json.dumps(dict.fromkeys(error.names, "..."))
            raise ValueError(f"{error}: add columns='{given}', in Python a row {{'prompt': ..., {given[1:]} for each prompt") from error
    before, after = (
        [{"prompt": p.prompt, "completion": p.completion, **p.measurements(), "kl_per_token": p.kl / p.tokens} for p in when]
        for when in measured
    )
    return [{"before": b, "after": a} for b, a in zip(before, after, strict=True)]


def _room(policy: Policy, new_tokens: int) -> int:
    """Prompt tokens that the model's positions leave.

    Raises:
        ValueError: they leave none.
    """
    positions = getattr(policy.lm.config, "max_position_embeddings", None) or 10**9  # type: ignore[union-attr]
    if positions <= new_tokens:
        raise ValueError(f"the model's {positions} positions leave no room for a prompt beside {new_tokens} new tokens")
    return int(positions) - new_tokens


def show(pairs: list[dict[str, dict[str, object]]]) -> None:
    """Prompt, continuations, and a line of what was measured of each."""
    console = Console(width=max(Console().width, 80))
    for pair in pairs:
        console.print(Text(str(pair["before"]["prompt"]), style="bold"))
        for when, measured in pair.items():
            own = [(name, ".2f") for name in measured if is_own(name)]
            said = [f"{name.replace('_', ' ')} {measured[name]:{spec}}" for name, spec in (*COLUMNS, *own) if name in measured]
            console.print(Padding(Text.assemble((f"{when}: ", "cyan"), str(measured["completion"]).strip()), (0, 2)))
            console.print(Padding(Text(", ".join(said), style="dim"), (0, 10)))
        console.print()


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a request that cannot be met."""
    given = sys.argv[1:] if arguments is None else arguments
    return command(__doc__, given or ["--help"], lambda chosen: generate(parse(chosen)), show)


if __name__ == "__main__":
    sys.exit(main())
