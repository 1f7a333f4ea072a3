"""What a study shows of its records: the whole report in an ignored folder, the few files that its README shows beside it."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from grade_lightning.records.files import write_atomically
from grade_lightning.records.study_table import Record


def refresh(made: Path, shown: Path, names: Collection[str]) -> None:
    """Copy the files that a README shows from a whole report to their committed place."""
    for name in names:
        write_atomically(shown / name, (made / name).read_bytes())


def samples_text(records: Collection[Record], prompts: int = 2) -> str:
    """Markdown: what each run writes after its first test prompts, before and after training."""
    lines = ["The first test prompts of each run, before and after training; chosen by their place, not by what came out."]
    for record in records:
        lines += ["", f"## {record.part}/{record.name}", "", "| reward | prompt | continuation |", "| --- | --- | --- |"]
        by_split = [[s for s in record.samples if s["split"] == split][:prompts] for split in ("initial", "test")]
        for before, after in zip(*by_split, strict=True):
            for when, sample in (("before", before), ("after", after)):
                prompt, completion = (" ".join(sample[key].split()).replace("|", "\\|") for key in ("prompt", "completion"))
                lines.append(f"| {sample['reward']:.3f} {when} | {prompt} | {completion} |")
    return "\n".join(lines) + "\n"
