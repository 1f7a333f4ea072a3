"""The curve that every method must beat: the best of n completions of the initial policy, n = 1, 2, 4, ..., N.

    python -m grade_lightning.best_of_n [samples=64] [split=test] [out=outputs/best_of_n] OVERRIDES

OVERRIDES are those of the runs that it is compared with (experiment=..., data.path=..., reward=...): the same prompts, sampling, reward and
judges.  An interrupted command goes on when it is repeated.  ``out/best_of_n.json`` holds the curve; a report draws it in its frontier
where it lies in the reported folder (or beside the table file).
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from grade_lightning.arguments import command
from grade_lightning.compose import composed, config_hash, settings_of
from grade_lightning.measurements import is_judged_or_part
from grade_lightning.records.files import write_atomically
from grade_lightning.records.text import json_text

log = logging.getLogger(__name__)

FILE = "best_of_n.json"
SPLITS = ("test", "validation")


@dataclass
class Request:
    """What to measure; see the module's docstring."""

    samples: int = 64
    split: str = "test"
    out: Path = Path("outputs/best_of_n")
    overrides: list[str] = field(default_factory=list)


def parse(arguments: Sequence[str]) -> Request:
    """Command line -> request.

    Raises:
        ValueError: a value that cannot be used.
    """
    request = Request()
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key == "samples":
            if not value.isdecimal() or int(value) < 2:
                raise ValueError(f"{argument}: give a whole number of at least 2")
            request.samples = int(value)
        elif key == "split":
            if value not in SPLITS:
                raise ValueError(f"{argument}: use one of {', '.join(SPLITS)}")
            request.split = value
        elif key == "out":
            request.out = Path(value)
        else:
            request.overrides.append(argument)
    return request


def measure(request: Request) -> dict[str, Any]:
    """Sample, or go on sampling, and write the curve.

    Raises:
        ValueError: the overrides are of no run, or the folder holds samples of another one.
    """
    cfg = composed([*request.overrides, f"run.dir={request.out}"])
    settings = settings_of(cfg)
    from grade_lightning.setup import inputs, objects
    from grade_lightning.training.environment import environment

    found = inputs(settings)
    found.check()
    made = objects(found, judges=True)
    identity = {
        "config": config_hash(cfg, without=("method", "temperature", "tau")),
        "split": request.split,
        "inputs": found.fingerprints(made.base),
    }
    passes = _Passes(request.out, json.loads(json.dumps(identity)))
    data = made.data()
    data.setup()
    loader = data.test_dataloader() if request.split == "test" else data.val_dataloader()
    for number in tqdm(range(passes.done, request.samples), initial=passes.done, total=request.samples, desc="samples of each prompt"):
        passes.add(_one_pass(made, loader, settings.evaluation.seed + number * 1_000_003))
    table = passes.columns(request.samples)
    result = {
        "samples": request.samples, "split": request.split, "prompts": len(table["reward"]), "reward": made.reward_report,
        "reward_fingerprint": found.reward_fingerprint, "curve": curve(table), "environment": environment(),
    }  # fmt: skip
    write_atomically(request.out / FILE, json_text(result))
    return result


def _one_pass(made: Any, loader: Any, seed: int) -> dict[str, list[float]]:
    """A completion of each prompt by the initial policy, measured.  -> columns in split order."""
    from grade_lightning.evaluation.evaluator import evaluate_batch
    from grade_lightning.rewards.base import evaluation_reward

    settings = made.inputs.settings
    reward, prompts = evaluation_reward(made.reward, settings.evaluation.scope), []
    for batch in loader:
        moved = batch.to(made.policy.device)
        prompts += evaluate_batch(
            made.policy, reward, moved, settings.evaluation_rollout, seed=seed, initial=True, judges=made.judges
        )  # fmt: skip
    ordered = [prompt.measurements() for prompt in sorted(prompts, key=lambda prompt: prompt.row)]
    return {name: [float(row[name]) for row in ordered] for name in ordered[0] if name not in ("kl", "ended")}


class _Passes:
    """Measurements of finished passes, a line each, after a line that says what they are of.

    Args:
        folder: created if missing.
        identity: what the passes are of; a folder with others is refused.
    """

    def __init__(self, folder: Path, identity: dict[str, Any]):
        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "samples.jsonl"
        lines = self.file.read_text().split("\n")[:-1] if self.file.exists() else []  # a half-written line has no break
        if lines and json.loads(lines[0]) != identity:
            raise ValueError(f"{folder} holds samples of other settings: choose another out= or remove it")
        self.passes = [json.loads(line) for line in lines[1:]]
        write_atomically(self.file, "".join(f"{line}\n" for line in lines) or json.dumps(identity) + "\n")

    @property
    def done(self) -> int:
        """Finished passes."""
        return len(self.passes)

    def add(self, measured: dict[str, list[float]]) -> None:
        """Keep one more."""
        self.passes.append(measured)
        with self.file.open("a") as stream:
            stream.write(json.dumps(measured) + "\n")

    def columns(self, samples: int) -> dict[str, list[list[float]]]:
        """[prompts, samples] of each measurement."""
        chosen = self.passes[:samples]
        return {name: [list(row) for row in zip(*(one[name] for one in chosen), strict=True)] for name in chosen[0]}


def curve(table: dict[str, list[list[float]]]) -> list[dict[str, Any]]:
    """A row for each n: the reward of the best with its interval over prompts, what judges and fluency say of it, and what it costs.

    Args:
        table: [P, N] of each measurement; ``reward``, ``tokens`` and perhaps others.
    """
    import numpy as np

    from grade_lightning.evaluation.order_statistics import expected_of_best, kl_bound, kl_of_best
    from grade_lightning.reporting.significance import mean_interval

    columns = {name: np.asarray(values) for name, values in table.items()}
    rewards, rows, n = columns["reward"], [], 1
    while n <= rewards.shape[1]:
        best = {name: expected_of_best(rewards, values, n) for name, values in columns.items()}
        interval, measured = mean_interval(best["reward"].tolist()), kl_of_best(rewards, n).mean()
        tokens = best["tokens"].mean()
        row: dict[str, Any] = {
            "n": n, "reward_mean": interval.mean, "reward_low": interval.low, "reward_high": interval.high, "kl_bound": kl_bound(n),
            "kl_sequence_mean": float(measured), "kl_mean": float(measured / tokens), "length_mean": float(tokens),
        }  # fmt: skip
        if "nll" in best:
            row["perplexity"] = float(np.exp(best["nll"].sum() / best["tokens"].sum()))
        row |= {f"{name}_mean": float(values.mean()) for name, values in best.items() if is_judged_or_part(name)}
        rows.append(row)
        n *= 2
    return rows


def _table(result: dict[str, Any]) -> str:
    from grade_lightning.reporting.table import Table

    columns = [
        ("n", "n", "d"), ("reward_mean", "Reward", ".3f"), ("kl_sequence_mean", "KL, nats/completion", ".3f"),
        ("kl_bound", "its bound", ".3f"), ("kl_mean", "KL, nats/token", ".4f"), ("judge_mean", "Judge", ".3f"),
        ("perplexity", "Perplexity under reference", ".1f"), ("length_mean", "Tokens", ".1f"),
    ]  # fmt: skip
    shown = [column for column in columns if column[0] in result["curve"][0]]
    note = f"{result['samples']} samples of each of {result['prompts']} prompts ({result['split']}); every choice of n among them at once."
    return Table("Best of n", shown, result["curve"], [note]).markdown()


def main(arguments: Sequence[str] | None = None) -> int:
    """0, or 2 for a request that cannot be met."""

    def make(given: Sequence[str]) -> tuple[Request, dict[str, Any]]:
        request = parse(given)
        return request, measure(request)

    def show(made: tuple[Request, dict[str, Any]]) -> None:
        request, result = made
        print(_table(result))
        print(f"written to {request.out / FILE}")

    return command(__doc__, arguments, make, show)


if __name__ == "__main__":
    sys.exit(main())
