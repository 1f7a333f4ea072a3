"""Rows of any JSON Lines, CSV or Parquet file, of a folder of them, or of a data set of the Hugging Face Hub, verbatim."""

from __future__ import annotations

import csv
import io
import json
import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

log = logging.getLogger(__name__)

LONGEST_CELL = 2**31 - 1  # characters of a CSV cell; Python's own limit is 131,072
_HUB_ID = re.compile(r"^[\w-][\w.-]*(/[\w.-]+)?$")
_ROLE = re.compile(r"^(train|validation|valid|val|dev|test)(?![a-z])", re.IGNORECASE)
_PICKLES = {".pkl", ".pickle", ".pt", ".pth", ".bin", ".joblib", ".npy"}


@dataclass(frozen=True)
class Table:
    """Rows of one file or data set.

    Attributes:
        where: the file or the data set, for messages.
        unit: what ``numbers`` count: ``line`` or ``row``.
        numbers: of each row, from 1.
        rows: mappings from column to value; a JSON object that lacks a key lacks it here.
    """

    where: str
    unit: str
    numbers: list[int]
    rows: list[dict[str, Any]]

    def __len__(self) -> int:
        return len(self.rows)

    def place(self, row: int) -> str:
        """A row in words, such as ``prompts.jsonl, line 7``."""
        return f"{self.where}, {self.unit} {self.numbers[row]}"


def _text_of(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8-sig")  # spreadsheets write a mark of the byte order first
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text ({error.reason} at byte {error.start:,}): save it as UTF-8") from error


def _object(text: str, place: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{place} is no JSON ({error}): each line must hold one JSON object") from error
    if not isinstance(found, dict):
        raise ValueError(f'{place} holds a {type(found).__name__}: each line must hold one JSON object, such as {{"prompt": "..."}}')
    return found


def _json_lines(file: Path) -> Table:
    # Not splitlines, which also breaks at characters that a JSON text may hold, such as U+2028.
    lines = [(number, line) for number, line in enumerate(_text_of(file).split("\n"), 1) if line.strip()]
    rows = [_object(line, f"{file}, line {number}") for number, line in lines]
    return Table(str(file), "line", [number for number, _ in lines], rows)


def _json(file: Path) -> Table:
    text = _text_of(file)
    if not text.lstrip().startswith("["):
        return _json_lines(file)
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise ValueError(f"{file} is no JSON ({error}): it must hold a list of objects, or one object a line") from error
    for number, row in enumerate(found, 1):
        if not isinstance(row, dict):
            raise ValueError(f"{file}, row {number} is a {type(row).__name__}: the list must hold objects")
    return Table(str(file), "row", list(range(1, len(found) + 1)), found)


def _csv(file: Path) -> Table:
    """Every cell is a text, because CSV knows no types: ``007`` stays as it is."""
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(io.StringIO(_text_of(file), newline=""), strict=True)
    rows: list[dict[str, Any]] = []
    numbers: list[int] = []
    try:
        header = next(reader, [])
        if len(set(header)) < len(header):
            raise ValueError(f"{file} names a column twice in its first line ({', '.join(header)}): rename one")
        for number, cells in enumerate((cells for cells in reader if cells), 1):
            if len(cells) != len(header):
                raise ValueError(
                    f"{file}, row {number} (it ends on line {reader.line_num}) has {len(cells)} cells and the first line names "
                    f"{len(header)} columns: put cells that hold commas, quotes or line breaks in double quotes"
                )
            rows.append(dict(zip(header, cells, strict=True)))
            numbers.append(number)
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num} is no CSV ({error}): put cells that hold quotes in double quotes") from error
    return Table(str(file), "row", numbers, rows)


def _parquet(file: Path) -> Table:
    try:
        found = pq.read_table(file).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(f"{file} is not a readable Parquet file ({_first_line(error)}): write it again") from error
    return Table(str(file), "row", list(range(1, len(found) + 1)), found)


READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _json_lines, ".ndjson": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
_FORMATS = ".jsonl, .json, .csv or .parquet"


def _read_file(file: Path) -> Table:
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        pickled = " (pickled files are never read: reading one can run code)" if file.suffix.lower() in _PICKLES else ""
        raise ValueError(f"{file} is of an unknown format{pickled}: give a {_FORMATS} file")
    try:
        table = reader(file)
    except PermissionError as error:
        raise ValueError(f"{file} cannot be read ({error.strerror}): change its permissions") from error
    if not len(table):
        raise ValueError(f"{file} is empty: it must hold at least one row")
    return table


def _read_folder(folder: Path, role: str) -> list[Table]:
    """The files of a folder for ``train``, ``validation`` or ``test``: those that are named so, or all where none is named for a role."""
    parts: dict[str | None, list[Path]] = {}
    # .json is left out: folders also hold descriptions in it.
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder).parts
        if file.suffix.lower() in READERS and file.suffix.lower() != ".json" and not any(name.startswith(".") for name in inside):
            named = next((match.group(1).lower() for name in inside if (match := _ROLE.match(name))), None)
            parts.setdefault("validation" if named in ("valid", "val", "dev") else named, []).append(file)
    if not parts:
        raise ValueError(f"{folder} holds no .jsonl, .csv or .parquet file: point to the folder that does, or to a single file")
    chosen = parts.get(role) if set(parts) - {None} else parts[None]
    if not chosen:
        names = ", ".join(sorted(file.name for files in parts.values() for file in files)[:5])
        raise ValueError(f"{folder} has files named for other parts and none named {role}* ({names}): name the file itself")
    formats = {file.suffix.lower() for file in chosen}
    if len(formats) > 1:
        raise ValueError(f"{folder} holds files of several formats ({', '.join(sorted(formats))}): name one file, or keep one format")
    return [_read_file(file) for file in chosen]


def _read_hub(path: str, split: str, revision: str | None, config: str | None, key: str) -> Table:
    import datasets  # slow to import, and only the hub needs it

    log.info("%s=%s is no file or folder here: asking the hub", key, path)
    try:
        dataset = datasets.load_dataset(path, config, split=split, revision=revision)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"{key}={path} is no file or folder here, and as a data set of the hub ({split}) it could not be loaded: "
            f"{_first_line(error)}. Check the name, the network and data.hub_split, data.hub_config and data.revision, or give a "
            f"{_FORMATS} file"
        ) from error
    rows = dataset.with_format("arrow")[:].to_pylist()
    if not rows:
        raise ValueError(f"{key}={path} ({split}) is empty: choose another data.hub_split")
    return Table(f"{path} ({split})", "row", list(range(1, len(rows) + 1)), rows)


def is_local(path: str) -> bool:
    """Whether a path means a file or folder of this machine, there or not, and not a data set of the hub."""
    return Path(path).expanduser().exists() or Path(path).suffix.lower() in {*READERS, *_PICKLES} or not _HUB_ID.match(path)


def read_tables(
    path: str, role: str = "train", *, key: str = "data.path", split: str = "train", revision: str | None = None, config: str | None = None
) -> list[Table]:
    """Everything that a path names.

    Args:
        path: a file, a folder, or the id of a data set of the hub.
        role: ``train``, ``validation`` or ``test``: which files of a folder are meant.
        key: the setting that holds the path, for messages.
        split: of a data set of the hub.
        revision: of its repository.
        config: its configuration, where it has several.

    Raises:
        ValueError: nothing there, or nothing that can be read; the message names file, row and remedy.
    """
    place = Path(path).expanduser()
    if place.is_dir():
        return _read_folder(place, role)
    if place.exists():
        return [_read_file(place)]
    if is_local(path):
        raise ValueError(f"{key}={path}: there is no such file or folder, seen from {Path.cwd()}: give a {_FORMATS} file")
    return [_read_hub(path, split, revision, config, key)]


def columns_of(tables: list[Table]) -> list[str]:
    """Names of all columns, in the order in which they first come."""
    names: dict[str, None] = {}
    for table in tables:
        for row in table.rows:
            names.update(dict.fromkeys(row))
    return list(names)


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0][:300].rstrip(".")
