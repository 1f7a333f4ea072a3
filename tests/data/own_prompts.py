"""Prompts of a user's own, in every format."""

from __future__ import annotations

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

ODD = [
    "  leading spaces", "trailing newline\n", "a\r\nb\ttab", "emoji 🎬 and café", "<|im_start|>user\nhi<|im_end|>", "<br />kept",
    'quotes " and, commas', "line\u2028separator \x85 next", "007", "NA", "null",
]  # fmt: skip
ROWS = [{"prompt": text, "answer": str(i)} for i, text in enumerate([*ODD, *(f"Question {i}: how many?" for i in range(29))])]
SIZES = {"validation_rows": 5, "test_rows": 7}
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'tool' %}{{ raise_exception('no tools') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{{ eos_token }}{% endfor %}{% if add_generation_prompt %}[assistant]{% endif %}"
)


def write(file, rows=ROWS):
    """Rows in the format of the file's name."""
    if file.suffix == ".jsonl":
        file.write_bytes("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())
    elif file.suffix == ".json":
        file.write_bytes(json.dumps(rows).encode())
    elif file.suffix == ".csv":
        with file.open("w", newline="", encoding="utf-8-sig") as stream:
            writer = csv.DictWriter(stream, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    return file


def contents(rows):
    return [row.content for row in rows]


def refusal(call, *arguments, **options) -> str:
    with pytest.raises(ValueError, match=r"\w") as error:
        call(*arguments, **options)
    return str(error.value)
