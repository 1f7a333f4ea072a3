"""Many runs in one compressed Parquet file, number for number what their folders held; pandas and DuckDB read it without us.

One row a run.  Columns:

- ``part``, ``name``: which run of the study it is; together they are its key.
- ``method``, ``seed``, ``protocol``, ``model``, ``data``, ``steps``, ``test_reward``, ``test_kl``, ``git_revision``: copies of what the
  JSON columns hold, to select by.
- ``config``, ``environment``, ``results``, ``samples``: JSON text.  ``results`` has null where a list of numbers has a column of its own.
- ``metrics/NAME``: list of doubles, one a policy step: a column of ``metrics.csv``, null where its cell is blank.
- ``results/KEY/.../KEY``: list of doubles or of 64-bit integers: a list of numbers inside ``results.json``, by its keys, such as
  ``results/test/per_prompt/reward``; null where a run has none.

    pandas.read_parquet("runs.parquet").groupby("method").test_reward.mean()
    duckdb: SELECT method, avg(list_avg("metrics/train/kl")) FROM 'runs.parquet' GROUP BY method
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from grade_lightning.records.files import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

KIND = b"grade_lightning.runs"  # key of the schema's metadata that tells such a file from other Parquet files
FACTS = ("method", "protocol", "model", "data", "seed", "steps")  # of results.json, copied into columns
TEXTS = ("config", "environment", "results", "samples")
COMMON = {
    "part": "part of the study; with name the key of the run", "name": "name of the run within its part", "method": "results.method",
    "seed": "results.seed", "protocol": "results.protocol", "model": "results.model", "data": "results.data",
    "steps": "results.steps, policy steps", "test_reward": "results.test.reward_mean", "test_kl": "results.test.kl_mean, nats a token",
    "git_revision": "environment.git_revision", "config": "the resolved configuration, JSON text",
    "environment": "machine, versions, revision and command, JSON text",
    "results": "results.json, JSON text; null where a list of numbers has a column results/...",
    "samples": "a few continuations before (initial) and after (test) training, JSON text",
}  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What a run leaves behind, as values.

    Attributes:
        part, name: its key in a study.
        config: resolved settings. environment: ``environment.json``. results: ``results.json``.
        metrics: columns of ``metrics.csv``, None where a cell is blank.
        samples: the lines of ``samples.jsonl`` that are kept.
    """

    part: str
    name: str
    config: dict[str, Any]
    environment: dict[str, Any]
    results: dict[str, Any]
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    samples: list[dict[str, Any]] = field(default_factory=list)

    @property
    def key(self) -> tuple[str, str]:
        return self.part, self.name


def is_table(path: Path) -> bool:
    """Whether a Parquet file is a table of runs."""
    import pyarrow.parquet as pq

    return KIND in (pq.read_schema(path).metadata or {})


def run_keys(path: Path) -> set[tuple[str, str]]:
    """(part, name) of every run; empty where there is no file yet."""
    if not path.exists():
        return set()
    found = _read(path, columns=["part", "name"])
    return set(zip(found["part"].to_pylist(), found["name"].to_pylist(), strict=True))


def read_table(path: Path, *, part: str | None = None, name: str | None = None) -> list[Record]:
    """The runs of a file (those of a part, or of a name, alone), in its order.

    Raises:
        ValueError: it is no table of runs.
    """
    wanted = [(key, "=", value) for key, value in (("part", part), ("name", name)) if value is not None]
    return [_record(row) for row in _read(path, filters=wanted or None).to_pylist()]


def write_table(path: Path, records: Iterable[Record]) -> None:
    """Write a whole file, ordered by part and name.

    Raises:
        ValueError: two runs have the same key, or a value is none that JSON has.
    """
    found = sorted(records, key=lambda record: record.key)
    if len({record.key for record in found}) < len(found):
        raise ValueError("two runs have the same part and name: give one of them another name")
    _write(path, _table(found, {}))


def add(path: Path, record: Record) -> None:
    """Add a run, or put it in the place of the one with its key.  Several processes may add at once: each waits for its turn."""
    import pyarrow as pa
    import pyarrow.compute as pc
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        if not path.exists():
            write_table(path, [record])
            return
        old = _read(path)
        new = _table([record], {column.name: str(column.type) for column in old.schema})
        same = pc.and_(pc.equal(old["part"], record.part), pc.equal(old["name"], record.name))
        both = pa.concat_tables([old.filter(pc.invert(same)), new], promote_options="default")
        _write(path, both.sort_by([("part", "ascending"), ("name", "ascending")]))


def _read(path: Path, **options: Any) -> pa.Table:
    import pyarrow.parquet as pq

    # Partitioning off: a folder on the way that is named key=value is no column.
    found = pq.read_table(path, partitioning=None, **options)
    if KIND not in (found.schema.metadata or {}):
        raise ValueError(f"{path} is no table of runs: give a file that a study has written, or a folder with run folders")
    return found


def _write(path: Path, table: pa.Table) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    fields = [column.with_metadata({"description": COMMON.get(column.name) or _meaning(column.name)}) for column in table.schema]
    documented = table.cast(pa.schema(fields, metadata={KIND: b"1", b"about": (__doc__ or "").encode()}))
    write_atomically(
        path, lambda partial: pq.write_table(documented, partial, compression="zstd", compression_level=19, write_statistics=False)
    )


def _meaning(column: str) -> str:
    kind, _, name = column.partition("/")
    return f"{name} of metrics.csv, one a policy step" if kind == "metrics" else f"the list at {name} of results.json"


def _table(records: list[Record], types: dict[str, str]) -> pa.Table:
    """Rows of records.

    Args:
        types: of columns that exist already, by name; a list of another type stays in the JSON text, so that no number changes.
    """
    import pyarrow as pa

    kinds = {"double": pa.list_(pa.float64()), "int64": pa.list_(pa.int64())}
    rows, lists, columns = [], [], dict[str, str]()
    for record in records:
        known = {name: "int64" if "int64" in kind else "double" for name, kind in types.items() if "list" in kind} | columns
        kept, moved = _without_lists(record.results, known)
        moved = {f"metrics/{name}": ("double", values) for name, values in record.metrics.items()} | moved
        columns |= {name: kind for name, (kind, _) in moved.items()}
        rows.append(_common(record, kept))
        lists.append(moved)
    integers = ("seed", "steps")
    arrays = {
        name: pa.array(
            [row[name] for row in rows],
            pa.int64() if name in integers else pa.float64() if name.startswith("test_") else pa.string(),
        )
        for name in COMMON
    }
    for name, kind in columns.items():
        arrays[name] = pa.array([moved[name][1] if name in moved else None for moved in lists], kinds[kind])
    return pa.table(arrays).replace_schema_metadata({KIND: b"1"})


def _common(record: Record, results: dict[str, Any]) -> dict[str, Any]:
    test = record.results.get("test") or {}
    texts = {"config": record.config, "environment": record.environment, "results": results, "samples": record.samples}
    return {
        "part": record.part, "name": record.name, **{key: record.results.get(key) for key in FACTS},
        "test_reward": test.get("reward_mean"), "test_kl": test.get("kl_mean"), "git_revision": record.environment.get("git_revision"),
        **{key: json.dumps(value, ensure_ascii=False, allow_nan=False) for key, value in texts.items()},
    }  # fmt: skip


def _without_lists(results: dict[str, Any], known: dict[str, str]) -> tuple[dict[str, Any], dict[str, tuple[str, list[Any]]]]:
    """Results with null in the place of each list of numbers, and those lists by column with the type of their numbers."""
    moved = {}

    def walk(value: Any, place: str) -> Any:
        if isinstance(value, dict):
            # A key with a slash cannot be told from two keys, so that what is below it stays where it is.
            return {key: item if "/" in key else walk(item, f"{place}/{key}") for key, item in value.items()}
        kind = _numbers(value)
        if kind is None or known.get(place, kind) != kind:
            return value
        moved[place] = kind, value
        return None

    return walk(results, "results"), moved


def _numbers(value: Any) -> str | None:
    """``double`` or ``int64`` for a list of such numbers, None among them allowed; None for anything else."""
    if not isinstance(value, list):
        return None
    found = {type(item) for item in value} - {type(None)}
    if found == {float}:
        return "double"
    return "int64" if found == {int} and all(item is None or -(2**63) <= item < 2**63 for item in value) else None


def _record(row: dict[str, Any]) -> Record:
    texts = {name: json.loads(row[name]) for name in TEXTS}
    metrics = {}
    for column, values in row.items():
        kind, *place = column.split("/")
        if values is None or not place:
            continue
        if kind == "metrics":
            metrics["/".join(place)] = values
        elif kind == "results":
            _put(texts["results"], place, values)
    return Record(row["part"], row["name"], metrics=metrics, **texts)


def _put(value: dict[str, Any], place: list[str], found: list[Any]) -> None:
    *above, last = place
    for key in above:
        value = value[key]
    value[last] = found
