"""The model card: what a run's weights are, what they were trained for, what was measured, and what that cannot say."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from grade_lightning.exporting.finished import FinishedRun
from grade_lightning.exporting.limits import limits
from grade_lightning.exporting.markdown import code, code_block, table
from grade_lightning.exporting.weights import BASE, Base
from grade_lightning.measurements import CLASSIFIER_JUDGE, measurement
from grade_lightning.records.text import yaml_text
from grade_lightning.training.summary import ROWS

SAMPLES, LONGEST = 4, 1000  # pairs of samples; characters of each text
# Folders that a value, or one of a list, begins with; the two slashes of an address begin none.
_FOLDERS = re.compile(r"""(?:^|(?<=[=,'"\[({]))(?:~\w*|\.\.?)?/(?!/)(?:[^/=,'"\])}]+/)*(?=[^/])""")


@dataclass(frozen=True)
class Exported:
    """An export, as its card needs to know it.

    Attributes:
        run, base: what it was made from.
        merged: whether adapters and base are one.
        checkpoint: last or best. where: how a program names it: a repository, or the folder itself.
        rounding: what :func:`grade_lightning.exporting.weights.write_merged` returned.
    """

    run: FinishedRun
    base: Base
    merged: bool
    checkpoint: str
    where: str = "."
    rounding: float = 0.0


def card(made: Exported) -> str:
    """README.md of an export."""
    run, results = made.run, made.run.results
    kind = "A language model" if made.merged else "LoRA adapters of a language model"
    opening = (
        f"{kind}, trained with GRADE-Lightning's method {code(results.get('method', '?'))} to raise "
        f"a reward of the text that it generates: {results.get('steps', '?')} policy steps, seed {results.get('seed', '?')}, prompts "
        f"from {code(results.get('data', '?'))}. The base is {_base(made)}."
    )
    title = made.where if made.where != "." else f"{results.get('method', 'run')} of {results.get('model', '?')}"
    parts = [
        _front_matter(made), f"# {code(title)}", opening, "## How to load it", code_block(loading(made), "python"), _beside(made),
        "## What it was trained for", _reward(run), "## What was measured", _measured(made),
        "## Samples", *_samples(run), "## Limits", "\n".join(f"- {line}" for line in limits(run, made.checkpoint, made.rounding)),
        "## How it was made", *_made(run),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def _front_matter(made: Exported) -> str:
    """What a hub reads of a card."""
    values: dict[str, Any] = {
        "library_name": "transformers" if made.merged else "peft",
        "pipeline_tag": "text-generation",
        "tags": ["grade-lightning", *([] if made.merged else ["lora"])],
    }
    if made.base.hub is not None:
        values |= {"base_model": made.base.hub, "base_model_relation": "finetune" if made.merged else "adapter"}
    return f"---\n{yaml_text(values)}---"


def _base(made: Exported) -> str:
    base, run = made.base, made.run
    if base.hub is not None:
        return f"{code(base.hub)} at revision {code(base.revision)}"
    made_here = run.settings.model.pretrain is not None
    name = "a small model that was pretrained for this run" if made_here else f"{code(run.results.get('model_name', '?'))}, a local model"
    return f"{name} (fingerprint {code(run.fingerprint)})"


def loading(made: Exported) -> str:
    """Python that loads model and tokenizer with transformers and PEFT alone."""
    base, where, more = made.base, repr(made.where), ", trust_remote_code=True" if made.base.trust_remote_code else ""
    imports, fetch = ["from transformers import AutoModelForCausalLM, AutoTokenizer"], []
    source = where
    if not made.merged:
        imports = ["from peft import PeftModel", *imports]
        source = f"{base.hub!r}, revision={base.revision!r}" if base.hub is not None else repr(f"./{BASE}")
    if not made.merged and base.hub is None and made.where != ".":
        # transformers looks for adapters above a subfolder, so a base below them can be loaded from a disk alone.
        imports, fetch = ["from huggingface_hub import snapshot_download", *imports], [f"folder = snapshot_download({where})"]
        where, source = "folder", f'f"{{folder}}/{BASE}"'
    lines = [
        *fetch,
        f"tokenizer = AutoTokenizer.from_pretrained({where}{more})",
        f'model = AutoModelForCausalLM.from_pretrained({source}, dtype="{made.run.dtype}"{more})',
        *([] if made.merged else [f"model = PeftModel.from_pretrained(model, {where})"]),
    ]
    return "\n".join([*imports, "", *lines])


def _beside(made: Exported) -> str:
    """Where the lines are to be run, and what a reader may not expect."""
    said = ["In this folder." if made.where == "." else ""]
    if not made.merged and made.base.folder is not None:
        said.append(f"No hub has the base, so it lies in `{BASE}/`; the adapter is of no use without it.")
    rollout = made.run.settings.evaluation_rollout
    said.append(
        f"What was measured was sampled with `temperature={rollout.sampling_temperature}`, `top_k={rollout.top_k}`, "
        f"`top_p={rollout.top_p}`, `min_new_tokens={rollout.min_new_tokens}`, `max_new_tokens={rollout.max_new_tokens}`, prompts padded "
        "on the left; other decoding gives other text."
    )
    return " ".join(line for line in said if line)


def _accuracies(report: Mapping[str, Any] | None, prefix: str = "") -> Iterator[str]:
    """What a report says of held-out data, also of the parts of a sum."""
    for name, value in (report or {}).items():
        if isinstance(value, Mapping):
            yield from _accuracies(value, f"{prefix}{name} ")
        elif name.startswith("heldout_") and isinstance(value, float):
            yield f"{code(prefix + name.removeprefix('heldout_').replace('_', ' '))} {value:.3f}"


def _reward(run: FinishedRun) -> str:
    config, results = run.config, run.results
    reward = config.get("reward") or {}
    target = reward.get("function") or str(reward.get("_target_", "?")).rsplit(".", 1)[-1]
    known = ", ".join(_accuracies(results.get("reward_head"))) or "not known"
    protocol = config.get("protocol") or {}
    rows = [
        ["reward", code(target) + (f" ({code(short(str(reward['path'])))})" if reward.get("path") else "")],
        ["on held-out data", known],
        ["weight of the KL to the base", f"{run.settings.kl_coef:g}, {code(protocol.get('kl_in'))}, {code(protocol.get('kl_reduction'))}"],
        ["protocol", code(results.get("protocol", "?"))],
    ]
    if results.get("adapter_fingerprint"):
        rows.append(["started from", f"an adapter (fingerprint {code(results['adapter_fingerprint'])}), not from the base"])
    return table(["", ""], rows)


def _measured(made: Exported) -> str:
    """The test before and after; of judges what is known of them too."""
    results = made.run.results
    before, after = (with_kl(results.get(split) or {}) for split in ("initial", "test"))
    if not after:
        first, last = results["validation"][0], results["validation"][-1]
        rows = [[title, _cell(first, key, spec), _cell(last, key, spec)] for title, key, spec in ROWS if key in last]
        return "The test split was not touched; this is validation.\n\n" + table(["validation", "step 0", f"step {last['step']}"], rows)
    rows = [[title, _cell(before, key, spec), _cell(after, key, spec)] for title, key, spec in ROWS if key in after and key != "judge_mean"]
    for name, report in _judges(results).items():
        key = f"{measurement(name)}_mean"
        known = ", ".join(_accuracies(report))
        title = f"judge {code(name)}, which nothing optimised" + (f" (held out: {known})" if known else "")
        rows.append([title, _cell(before, key, ".3f"), _cell(after, key, ".3f")])
    text = table(["test", "before: the base", "after: the last weights"], rows)
    best = results.get("best_validation") or {}
    if made.checkpoint == "best" and best.get("step") != results.get("steps"):
        text += (
            f"\n\nThese numbers are of the last weights. What is exported are those of the best validation (step {best.get('step')}, "
            f"reward {best.get('reward_mean', float('nan')):.3f} on validation), which were not tested."
        )
    return text


def _judges(results: Mapping[str, Any]) -> dict[str, Any]:
    """Reports of judges by name; earlier versions had one."""
    return results.get("judges") or ({CLASSIFIER_JUDGE: results["judge"]} if results.get("judge") else {})


def with_kl(test: Mapping[str, Any]) -> dict[str, Any]:
    """With the KL of whole completions, which earlier versions left to be averaged."""
    per_prompt = (test.get("per_prompt") or {}).get("kl")
    return {**({"kl_sequence_mean": sum(per_prompt) / len(per_prompt)} if per_prompt else {}), **test}


def _cell(measured: Mapping[str, Any], key: str, spec: str) -> str:
    value = measured.get(key)
    return format(value, spec) if isinstance(value, int | float) else "-"


def _samples(run: FinishedRun) -> Iterator[str]:
    pairs = run.pairs(SAMPLES)
    if not pairs:
        yield "The run kept none."
        return
    yield "The first ones of the run, not chosen. The noise is the same before and after."
    for before, after in pairs:
        lines = [f"PROMPT\n{_cut(before['prompt'])}"]
        for when, sample in (("BEFORE", before), ("AFTER", after)):
            lines.append(f"{when} (reward {sample['reward']:.3f})\n{_cut(sample['completion'])}")
        yield code_block("\n\n".join(lines))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} [...]"


def _made(run: FinishedRun) -> Iterator[str]:
    environment = run.environment
    yield "Folders of the machine are shortened to their last part."
    yield code_block(shlex.join(short(argument) for argument in environment.get("command") or ["unknown"]), "text")
    settings = {key: value for key, value in run.config.items() if key not in ("run", "logger", "hydra")}
    start = (run.config.get("run") or {}).get("adapter")
    yield code_block(yaml_text(_shortened({**settings, **({"run": {"adapter": start}} if start else {})})).strip(), "yaml")
    revision, dirty = environment.get("git_revision"), environment.get("git_dirty")
    rows = [["revision of GRADE-Lightning", (code(revision) + (" and uncommitted changes" if dirty else "")) if revision else "not known"]]
    rows += [["python", code(environment.get("python", "?"))]]
    rows += [[code(name), code(found)] for name, found in (environment.get("packages") or {}).items() if found]
    yield table(["", "version"], rows)


def short(text: str) -> str:
    """Without the folders of a machine: ``key=/a/b/c`` -> ``key=c``; what no value begins with is left as it is."""
    return _FOLDERS.sub("", text)


def _shortened(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _shortened(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_shortened(item) for item in value]
    return short(value) if isinstance(value, str) else value
