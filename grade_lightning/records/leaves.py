"""Nested results in one compressed Parquet file, a row a value; pandas and DuckDB read it without us.

Columns:

- ``record``: which of the file's nested results the value belongs to.
- ``path``: list of texts, the keys from the outside in; a place in a list is written ``[0]``, ``[1]`` and so on.
- ``number``: double, the value where it is a number; null otherwise.
- ``text``: the value as JSON where a double would not say all of it (integers, truth values, texts, null, empty lists and objects);
  null where ``number`` says it exactly.

    duckdb: SELECT path, number FROM 'gradients.parquet' WHERE record = 'checkpoints/initial' AND path[-1] = 'nvr_rollout'
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from grade_lightning.records.files import write_atomically

KIND = b"grade_lightning.leaves"
_PLACE = re.compile(r"\[\d+\]")


def write_leaves(path: Path, records: dict[str, Any]) -> None:
    """Write nested results of JSON's types, by name, as a whole file.

    Raises:
        ValueError: a key looks like a place in a list, or is no text.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [(record, place, value) for record, nested in records.items() for place, value in _leaves(nested, ())]
    numbers = [float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None for _, _, value in rows]
    table = pa.table(
        {
            "record": pa.array([record for record, _, _ in rows], pa.string()),
            "path": pa.array([place for _, place, _ in rows], pa.list_(pa.string())),
            "number": pa.array(numbers, pa.float64()),
            "text": pa.array([None if isinstance(v, float) else json.dumps(v, ensure_ascii=False) for _, _, v in rows], pa.string()),
        }
    ).replace_schema_metadata({KIND: b"1", b"about": (__doc__ or "").encode()})
    write_atomically(path, lambda partial: pq.write_table(table, partial, compression="zstd", compression_level=19, write_statistics=False))


def read_leaves(path: Path) -> dict[str, Any]:
    """The nested results of a file, by name; empty where there is no file yet.

    Raises:
        ValueError: it holds something else.
    """
    import pyarrow.parquet as pq

    if not path.exists():
        return {}
    table = pq.read_table(path, partitioning=None)
    if KIND not in (table.schema.metadata or {}):
        raise ValueError(f"{path} holds no nested results: give a file that write_leaves has written")
    found: dict[str, Any] = {}
    for row in table.to_pylist():
        _put(found, [row["record"], *row["path"]], row["number"] if row["text"] is None else json.loads(row["text"]))
    return {record: _with_lists(nested) for record, nested in found.items()}


def add_leaves(path: Path, record: str, nested: Any) -> None:
    """Add nested results under a name, or put them in the place of those that have it; who adds at once waits for their turn."""
    from filelock import FileLock

    path.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(path.with_name(f".{path.name}.lock")):
        write_leaves(path, {**read_leaves(path), record: nested})


def _leaves(value: Any, place: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict) and value:
        for key, item in value.items():
            if not isinstance(key, str) or _PLACE.fullmatch(key):
                raise ValueError(f"{key!r} cannot be a key of nested results: use a text that is no place in a list")
            yield from _leaves(item, (*place, key))
    elif isinstance(value, list | tuple) and value:
        for number, item in enumerate(value):
            yield from _leaves(item, (*place, f"[{number}]"))
    else:
        yield place, value


def _put(found: dict[str, Any], place: list[str], value: Any) -> None:
    *above, last = place
    for key in above:
        found = found.setdefault(key, {})
    found[last] = value


def _with_lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inside = [_with_lists(item) for item in value.values()]
    return inside if value and _PLACE.fullmatch(next(iter(value))) else dict(zip(value, inside, strict=True))
