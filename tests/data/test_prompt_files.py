"""A user's own prompts: formats, splits, and what is refused."""

from __future__ import annotations

import logging
import subprocess
import sys

import datasets
import pytest

from grade_lightning.data.own import load_prompt_splits, prompt_rows
from grade_lightning.data.tables import read_tables
from tests.data.own_prompts import ROWS, SIZES, contents, refusal, write

# -- formats ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_every_format_gives_the_same_prompts_verbatim(tmp_path, suffix):
    rows = prompt_rows(read_tables(str(write(tmp_path / f"p.{suffix}"))), "prompt")
    assert contents(rows) == [row["prompt"] for row in ROWS]
    assert [dict(row.columns) for row in rows] == [{"answer": row["answer"]} for row in ROWS]
    splits = load_prompt_splits(str(tmp_path / f"p.{suffix}"), **SIZES)
    assert splits.fingerprints == load_prompt_splits(str(write(tmp_path / "other.jsonl", ROWS[::-1])), **SIZES).fingerprints


def test_a_folder_is_its_files_and_names_of_parts_are_heeded(tmp_path):
    write(tmp_path / "b.jsonl", ROWS[20:])
    write(tmp_path / "a.jsonl", ROWS[:20])
    (tmp_path / "dataset_info.json").write_text("{}")
    assert contents(prompt_rows(read_tables(str(tmp_path)), "prompt")) == [row["prompt"] for row in ROWS]
    for name, rows in (("train-0.jsonl", ROWS[:20]), ("test-0.jsonl", ROWS[20:])):
        (tmp_path / "parts").mkdir(exist_ok=True)
        write(tmp_path / "parts" / name, rows)
    folder = str(tmp_path / "parts")
    splits = load_prompt_splits(folder, test_path=folder, validation_rows=5)
    assert {len(splits.policy), len(splits.validation), len(splits.test)} == {15, 5, 20}
    assert "none named validation*" in refusal(read_tables, folder, "validation")


def test_a_hub_data_set_is_read_with_its_split(monkeypatch):
    asked = []

    def load_dataset(*arguments, **options):
        asked.append((*arguments, options))
        return datasets.Dataset.from_list(ROWS)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    splits = load_prompt_splits(
        "owner/name", hub_split="train[:9]", hub_config="main", revision="r", test_path="owner/name", validation_rows=4
    )
    assert asked == [
        ("owner/name", "main", {"split": "train[:9]", "revision": "r"}), ("owner/name", "main", {"split": "test", "revision": "r"}),
    ]  # fmt: skip
    assert sorted(contents(splits.test)) == sorted(row["prompt"] for row in ROWS)


def test_a_hub_out_of_reach_is_one_message(monkeypatch):
    def load_dataset(*arguments, **options):
        raise ConnectionError("Couldn't reach the Hub\nmore")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    said = refusal(read_tables, "owner/name")
    assert "owner/name is no file or folder here" in said
    assert "Couldn't reach the Hub. Check the name, the network" in said


# -- splits -----------------------------------------------------------------------------------------------------------


def test_splits_are_disjoint_seeded_and_whole(tmp_path):
    file = str(write(tmp_path / "p.jsonl"))
    splits, again, other = (load_prompt_splits(file, shuffle_seed=seed, **SIZES) for seed in (42, 42, 43))
    parts = [contents(part) for part in (splits.policy, splits.validation, splits.test)]
    assert [len(part) for part in parts] == [28, 5, 7]
    assert sorted(text for part in parts for text in part) == sorted(row["prompt"] for row in ROWS)
    assert splits.fingerprints == again.fingerprints
    assert contents(other.test) != contents(splits.test)


def test_own_files_are_used_whole_and_common_prompts_are_counted(tmp_path, caplog):
    paths = [str(write(tmp_path / f"{name}.jsonl", rows)) for name, rows in (("a", ROWS[:20]), ("b", ROWS[20:30]), ("c", ROWS[18:40]))]
    with caplog.at_level(logging.WARNING):
        splits = load_prompt_splits(paths[0], validation_path=paths[1], test_path=paths[2])
    assert (len(splits.policy), len(splits.validation), len(splits.test)) == (20, 10, 22)
    assert splits.duplicates == {"policy/test": 2, "validation/test": 10}
    assert "stand in two splits" in caplog.text


def test_fingerprints_know_text_columns_and_seed(tmp_path):
    def prints(rows, **options):
        return load_prompt_splits(str(write(tmp_path / "p.jsonl", rows)), **SIZES, **options).fingerprints

    base = prints(ROWS)
    assert set(base) == {"policy", "validation", "test"}
    assert prints([{**ROWS[0], "answer": "other"}, *ROWS[1:]]) != base
    assert prints([{**ROWS[0], "prompt": "leading spaces"}, *ROWS[1:]]) != base
    assert prints(ROWS, shuffle_seed=1) != base


def test_the_order_is_that_of_another_process(tmp_path):
    file = str(write(tmp_path / "p.csv"))
    code = f"from grade_lightning.data.own import load_prompt_splits as f; print(f({file!r}, validation_rows=5, test_rows=7).fingerprints)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"})
    assert done.stdout.strip() == str(load_prompt_splits(file, **SIZES).fingerprints)


def test_a_file_that_is_too_small_says_the_numbers(tmp_path):
    said = refusal(load_prompt_splits, str(write(tmp_path / "p.jsonl")))
    assert "40 prompts" in said
    assert "data.test_rows (200) and data.validation_rows (100)" in said
    assert "data.validation_path" in said


# -- errors -----------------------------------------------------------------------------------------------------------

FILES = [
    ("a.jsonl", '{"prompt": "x"}\n\n{"prompt": \n', ["a.jsonl, line 3 is no JSON", "one JSON object"]),
    ("a.jsonl", '{"prompt": "x"}\n["y"]\n', ["a.jsonl, line 2 holds a list"]),
    ("a.json", '[{"prompt": "x"}, 3]', ["a.json, row 2 is a int"]),
    ("a.jsonl", '{"text": "x", "id": 3}\n', ["no column 'prompt'", "'text', 'id'", "data.prompt_column=NAME"]),
    ("a.jsonl", '{"prompt": "x"}\n{"id": 1}\n{"prompt": " "}\n', ["a.jsonl, line 2", "'prompt' holds no prompt", "2 of 3 rows"]),
    ("a.jsonl", '{"prompt": "x"}\n{"prompt": 7}\n', ["line 2", "type int", "a text or a list of messages"]),
    ("a.jsonl", '{"prompt": [{"role": "user", "content": "x"}]}\n{"prompt": "y"}\n', ["line 2", "holds a text, where the chats"]),
    ("a.jsonl", '{"prompt": [{"role": "user"}]}\n', ["line 1", 'message 1 is not of the form {"role"']),
    ("a.jsonl", '{"prompt": []}\n', ["a chat without messages"]),
    ("a.jsonl", '{"prompt": "\\ud83d"}\n', ["half of a surrogate pair"]),
    ("a.jsonl", b'{"prompt": "\xff"}\n', ["is not UTF-8 text", "save it as UTF-8"]),
    ("a.jsonl", "", ["a.jsonl is empty"]),
    ("a.csv", "prompt,id\n", ["a.csv is empty"]),
    ("a.csv", "prompt,id\nx,1\ny, z,2\n", ["a.csv, row 2", "3 cells", "2 columns"]),
    ("a.csv", 'prompt,id\n"x,1\n', ["a.csv, line", "is no CSV"]),
    ("a.csv", "prompt,prompt\nx,1\n", ["names a column twice"]),
    ("a.parquet", "no parquet", ["a.parquet is not a readable Parquet file"]),
    ("a.pkl", b"\x80\x04", ["unknown format (pickled files are never read", ".jsonl"]),
    ("a.docx", "x", ["unknown format: give a .jsonl"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), FILES, ids=lambda value: None if isinstance(value, list) else repr(value)[:40])
def test_what_cannot_be_used_is_named(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    message = refusal(load_prompt_splits, str(tmp_path / name))
    for part in said:
        assert part in message


def test_what_is_not_there(tmp_path):
    for path in ("missing.jsonl", "./missing", "a/b/c", str(tmp_path / "no")):
        assert f"data.path={path}: there is no such file or folder" in refusal(load_prompt_splits, path)
    file = str(write(tmp_path / "p.jsonl"))
    assert "data.test_path=no.csv: there is no such" in refusal(load_prompt_splits, file, test_path="no.csv")
    (tmp_path / "folder").mkdir()
    assert "holds no .jsonl, .csv or .parquet" in refusal(load_prompt_splits, str(tmp_path / "folder"))
