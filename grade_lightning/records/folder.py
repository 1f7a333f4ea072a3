"""The run folder: everything a run leaves behind, in formats that other programs can read.

``config.yaml`` (resolved), ``environment.json``, ``metrics.csv`` (one row a policy step), ``samples.jsonl``,
``results.json`` (written last: its presence means the run is finished) and ``checkpoints/``.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from grade_lightning.measurements import is_judged_or_part
from grade_lightning.records.files import write_atomically
from grade_lightning.records.text import finite, json_text

TRAIN_COLUMNS = (
    "reward", "loss", "kl", "grad_norm", "grad_norm_tensor_mean", "grad_norm_tensor_std", "grad_clipped", "tau", "lr",
    "length", "eos_rate", "tokens", "reward_uncertainty", "largest_weight", "soft_hard_gap", "hops", "first_ratio",
    "last_ratio", "residual", "truncated", "seconds",
)  # fmt: skip
EVALUATION_KEYS = ("reward_mean", "reward_std", "n", "kl_mean", "length_mean", "eos_rate", "distinct_1", "distinct_2", "distinct_3")


class RunFolder:
    """Writes one run folder.

    Args:
        path: created if missing.
        writes: False for a process that only computes: nothing is created or written.

    Raises:
        ValueError: the folder cannot be written.
    """

    def __init__(self, path: str | Path, *, writes: bool = True):
        self.path, self.writes = Path(path), writes
        if not writes:
            return
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            probe = self.path / ".writable"
            probe.write_text("")
            probe.unlink()
        except OSError as error:
            raise ValueError(f"the run folder {self.path} cannot be written ({error}): set run.dir to another folder") from error

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file so that a reader never sees half of it."""
        if not self.writes:
            return
        write_atomically(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json_text(value))

    def append_metrics(self, row: Mapping[str, float | int]) -> None:
        """Append one row to ``metrics.csv`` and force it to disk.  A new column rewrites the file once."""
        if not self.writes:
            return
        file = self.path / "metrics.csv"
        old = file.read_text() if file.exists() else ""
        columns = next(csv.reader(io.StringIO(old)), [])
        new = [name for name in row if name not in columns]
        if new:
            rows = list(csv.DictReader(io.StringIO(old)))
            columns = columns + new
            self.write_text("metrics.csv", _csv_text(columns, [*rows, dict(row)]))
            return
        line = io.StringIO()
        csv.DictWriter(line, columns, restval="", lineterminator="\n").writerow(dict(row))
        with file.open("a") as stream:
            stream.write(line.getvalue())
            stream.flush()
            os.fsync(stream.fileno())

    def amend_metrics(self, step: int, values: Mapping[str, Any]) -> None:
        """Fill cells of a step's row that were blank when it was written."""
        if not self.writes:
            return
        rows = list(csv.DictReader(io.StringIO((self.path / "metrics.csv").read_text())))
        for row in rows:
            if int(row["step"]) == step:
                row.update({name: str(value) for name, value in values.items()})
        self.write_text("metrics.csv", _csv_text([*rows[0], *(name for name in values if name not in rows[0])], rows))

    def append_samples(self, split: str, step: int, samples: Iterable[Mapping[str, Any]]) -> None:
        """Append samples (prompt, completion, what was measured) to ``samples.jsonl``."""
        if not self.writes:
            return
        with (self.path / "samples.jsonl").open("a") as stream:
            for sample in samples:
                line = {"split": split, "step": step, **sample}
                stream.write(json.dumps(finite(line), ensure_ascii=False, allow_nan=False) + "\n")

    # -- earlier attempts -------------------------------------------------------------------------------------------

    @property
    def checkpoint(self) -> Path:
        """Where training can go on from."""
        return self.path / "checkpoints" / "resume.ckpt"

    def _json(self, name: str, remedy: str) -> dict[str, Any] | None:
        file = self.path / name
        if not file.exists():
            return None
        try:
            found = json.loads(file.read_text())
        except ValueError as error:
            raise ValueError(f"{file} is damaged ({error}): {remedy}") from error
        if not isinstance(found, dict):
            raise ValueError(f"{file} is damaged (it holds no object): {remedy}")
        return found

    def finished(self, identity: str) -> dict[str, Any] | None:
        """The results of a finished run of this very configuration, if that is what the folder holds.

        Raises:
            ValueError: they cannot be read.
        """
        results = self._json(
            "results.json", f"remove {self.path / 'results.json'} and give the same command again, which goes on from the last checkpoint"
        )
        return results if results is not None and results.get("config_hash") == identity else None

    def started(self, identity: str) -> dict[str, Any] | None:
        """``environment.json`` of an unfinished run of this very configuration; None in an empty folder.

        Raises:
            ValueError: the folder holds a run of another configuration, or it cannot be told of which.
        """
        if not any((self.path / name).exists() for name in ("metrics.csv", "samples.jsonl", "results.json", "checkpoints")):
            return None
        again = f"remove {self.path} to make the run again, or set run.dir to another folder"
        environment = self._json("environment.json", again)
        if environment is None:
            raise ValueError(f"{self.path} holds records of a run without environment.json, which says of which run: {again}")
        if environment.get("config_hash") != identity:
            raise ValueError(
                f"{self.path} already holds a run of another configuration (its resolved settings: {self.path / 'config.yaml'}): "
                "set run.dir to a new folder, or repeat that run's settings to go on with it"
            )
        return environment

    def begin(self, environment: Mapping[str, Any], inputs: Mapping[str, Any], *, again: bool) -> None:
        """Note what the configuration's hash does not know: what it names, by contents.

        Args:
            environment: what :meth:`started` found, or is to find.
            inputs: what a run is made from -> its fingerprint.
            again: go on with a run that began with such inputs.

        Raises:
            ValueError: with others.
        """
        began = environment.get("inputs", inputs) if again else inputs  # earlier versions did not note them
        changed = [key for key, fingerprint in inputs.items() if began[key] != fingerprint]
        if changed:
            raise ValueError(
                f"{self.path} holds an unfinished run that began with other inputs of the same names ({', '.join(changed)}): "
                "set run.dir to a new folder, or bring back what it began with to go on with it"
            )
        self.write_json("environment.json", {**environment, "inputs": dict(inputs)})

    def rewind(self, step: int, validated: Mapping[int, int] | None = None) -> None:
        """Forget what was written after a policy step: training goes on from there and writes it again.  0 = everything.

        Args:
            validated: steps whose validation samples are kept, and how many there are of each.

        Raises:
            ValueError: what was written until then is not there as it was.
        """
        if not self.writes:
            return
        for leftover in self.path.glob(".*.partial"):  # of a process that was killed while it wrote
            leftover.unlink()
        metrics, samples = self.path / "metrics.csv", self.path / "samples.jsonl"
        if step == 0:
            metrics.unlink(missing_ok=True)
            samples.unlink(missing_ok=True)
            return
        for file, kept in ((metrics, partial(_rows_until, step)), (samples, partial(_samples_of, validated or {}))):
            try:
                text = kept(_whole_lines(file.read_text()) if file.exists() else [])
            except ValueError as error:
                raise ValueError(
                    f"{file} is damaged ({error}): bring it back, or remove {self.checkpoint} and give the same command again, which then "
                    "begins with the first step"
                ) from error
            if text:
                self.write_text(file.name, text)
            else:
                file.unlink(missing_ok=True)


def _rows_until(step: int, lines: list[str]) -> str:
    """The header and one row for each step.

    Raises:
        ValueError: there are others.
    """
    kept = [line for line in lines[1:] if int(line.split(",", 1)[0]) <= step]
    if [int(line.split(",", 1)[0]) for line in kept] != list(range(1, step + 1)) or not lines[0].startswith("step,"):
        raise ValueError(f"it has not one row for each of steps 1 to {step}")
    return "".join([lines[0], *kept])


def _samples_of(validated: Mapping[int, int], lines: list[str]) -> str:
    """The validation samples of some steps.

    Raises:
        ValueError: there are not so many.
    """
    parsed = [(line, json.loads(line)) for line in lines]
    kept = [(line, sample["step"]) for line, sample in parsed if sample["split"] == "validation" and sample["step"] in validated]
    if Counter(step for _, step in kept) != Counter(validated):
        raise ValueError("it lacks samples of validations")
    return "".join(line for line, _ in kept)


def _csv_text(columns: list[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """Rows as CSV with a header; a cell that a row lacks is blank."""
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _whole_lines(text: str) -> list[str]:
    """Lines with their line break; a last one that a killed process left half-written has none and is left out.

    Not ``splitlines``, which also breaks at characters that reviews contain, such as U+0085.
    """
    return [f"{line}\n" for line in text.split("\n")[:-1]]


def metrics_row(
    step: int, train: Mapping[str, float], evaluation: Mapping[str, Any] | None, like: Mapping[str, Any] | None = None
) -> dict[str, float | int]:
    """One row of ``metrics.csv``: known columns in fixed order, others after them; validation columns blank without one.

    Args:
        step: policy step.
        train: what it measured.
        evaluation: the validation after it.
        like: an earlier validation, which has the columns that later ones will have.
    """
    ordered = [*TRAIN_COLUMNS, *(name for name in train if name not in TRAIN_COLUMNS)]
    row: dict[str, Any] = {"step": step, **{f"train/{name}": train.get(name, "") for name in ordered}}
    row.update(validation_cells(evaluation, like))
    return row


def evaluation_keys(evaluation: Mapping[str, Any]) -> list[str]:
    """What is kept of a validation: what every one has, and what judges, fluency and a reward's parts add."""
    return [*EVALUATION_KEYS, *(name for name in evaluation if name in ("kl_sequence_mean", "perplexity") or is_judged_or_part(name))]


def validation_cells(evaluation: Mapping[str, Any] | None, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The ``val/`` cells of a row; blank without a validation, with the columns of an earlier one."""
    if evaluation is None:
        return {f"val/{name}": "" for name in (EVALUATION_KEYS if like is None else evaluation_keys(like))}
    return {f"val/{name}": evaluation[name] for name in evaluation_keys(evaluation)}
