"""The end of a run, for a person."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from grade_lightning.measurements import NOT_FLUENT, is_own, kind_and_name
from grade_lightning.records.from_folder import by_prompt, pairs, read_samples

ROWS = (
    ("reward, mean", "reward_mean", ".3f"), ("reward, std over prompts", "reward_std", ".3f"), ("test prompts", "n", "d"),
    ("KL, nats per token", "kl_mean", ".3f"), ("KL, nats per completion", "kl_sequence_mean", ".2f"),
    ("distinct-2", "distinct_2", ".3f"), ("length, tokens", "length_mean", ".1f"),
    ("independent judge, mean", "judge_mean", ".3f"), ("reward of completions alone", "completion_reward_mean", ".3f"),
    ("perplexity under the reference", "perplexity", ".1f"), ("repeated 4-grams", "repeated_4_mean", ".3f"),
    ("MSTTR-100", "msttr", ".3f"), ("bigram entropy, bits", "entropy_2", ".2f"),
)  # fmt: skip
_KINDS = {"judge": "judge", "reward": "part of the reward"}


def _named(test: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Rows of a user's own judges and of the parts of a reward."""
    own = {name: kind_and_name(name) for name in test if is_own(name)}
    return [(f"{_KINDS[kind]}: {given}", name, ".3f") for name, (kind, given) in own.items()]


def print_summary(results: dict[str, Any], folder: Path, *, samples: int = 3) -> None:
    """Test numbers before and after, and sample continuations side by side.

    Args:
        results: as in ``results.json``.
        folder: of the run.
        samples: continuations shown.
    """
    console = Console()
    console = Console(width=max(console.width, 100))
    console.print(
        f"\n[bold]{results['method']}[/bold], seed {results['seed']}: {results['steps']} policy steps on "
        + ("prompts of your own" if results["data"] == "prompts" else f"{results['data']} reviews")
    )
    if "test" in results:
        table = Table("test", "before", "after")
        for title, key, spec in (*ROWS, *_named(results["test"])):
            if key not in results["test"]:
                continue  # no judge where the splits leave no rows for one
            table.add_row(title, format(results["initial"][key], spec), format(results["test"][key], spec))
        console.print(table)
        if "judge_mean" in results["test"] and results["test"]["perplexity"] > NOT_FLUENT * results["initial"]["perplexity"]:
            console.print("[yellow]perplexity has more than doubled: judges may be sure of what is no sentence; read the samples[/yellow]")
        kept = read_samples(folder)
        table = Table("prompt", "before", "after", show_lines=True)
        for pair in pairs(by_prompt(kept, "initial"), by_prompt(kept, "test"))[:samples]:
            cells = [Text(f"{sample['completion'].strip()}\n[reward {sample['reward']:.2f}]") for sample in pair]
            table.add_row(Text(pair[0]["prompt"]), *cells)
        console.print(table)
    accuracy = results["reward_head"].get("heldout_accuracy_reviews")
    if accuracy is not None:
        console.print(f"reward head: right on {accuracy:.1%} of held-out reviews")
    console.print(f"wall time {results['seconds']['total']:.0f} s; run folder: {folder}", soft_wrap=True)
