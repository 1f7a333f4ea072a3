"""A user's own prompts: formats, splits, verbatim texts, chats, length, errors, and a whole run."""

from __future__ import annotations

import csv
import json
import logging
import subprocess
import sys

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf

from grade_lightning.compose import composed, config_hash, settings_of
from grade_lightning.data.encoding import encode_splits
from grade_lightning.data.module import PromptDataModule
from grade_lightning.data.own import load_prompt_splits, make_prompt_splits, prompt_rows
from grade_lightning.data.prompts import collate
from grade_lightning.data.tables import Table, read_tables
from grade_lightning.generate import Request, generate
from grade_lightning.run import execute
from grade_lightning.settings import SettingsError
from tests.rewards.vocabularies import save_classifier

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


# -- tokens -----------------------------------------------------------------------------------------------------------


def encoded(rows, tokenizer, column="prompt", **options):
    table = Table("p.jsonl", "line", list(range(1, len(rows) + 1)), rows)
    splits = make_prompt_splits(prompt_rows([table], column), validation_rows=1, test_rows=1)
    return [prompt for part in encode_splits(splits, tokenizer, **options).values() for prompt in part]


def test_texts_are_verbatim_with_the_tokenizers_special_tokens(tokenizer):
    prompts = encoded(ROWS, tokenizer)
    assert sorted(prompt.text for prompt in prompts) == sorted(row["prompt"] for row in ROWS)
    for prompt in prompts:
        assert list(prompt.ids) == tokenizer(prompt.text)["input_ids"]
        assert prompt.ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(prompt.ids[1:]) == prompt.text
        assert prompt.label == -1
    assert len({prompt.key for prompt in prompts}) == len(prompts)


def test_equal_prompts_have_ids_of_their_own_and_ids_do_not_depend_on_columns(tokenizer):
    rows = [*({"prompt": "same", "n": i} for i in range(20)), {"prompt": "other", "n": 0}]
    keys = {prompt.key for prompt in encoded(rows, tokenizer)[:19]}
    assert len(keys) == 19
    alone = {p.text: p.key for p in encoded([{"prompt": f"{i}"} for i in range(9)], tokenizer)}
    assert alone == {p.text: p.key for p in encoded([{"prompt": f"{i}", "x": 1} for i in range(9)], tokenizer)}


@pytest.fixture
def chatty(tokenizer):
    tokenizer.chat_template = TEMPLATE
    yield tokenizer
    tokenizer.chat_template = None


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_chats_are_what_the_template_writes_without_special_tokens_twice(chatty, tmp_path, suffix):
    chats = [[{"role": "system", "content": "Be brief.", "name": "x"}, {"role": "user", "content": f" Hi {i}"}] for i in range(8)]
    file = write(tmp_path / f"c.{suffix}", [{"messages": chat, "id": i} for i, chat in enumerate(chats)])
    splits = load_prompt_splits(str(file), prompt_column="messages", validation_rows=1, test_rows=1)
    for prompt in encode_splits(splits, chatty)["policy"]:
        messages = chats[prompt.columns["id"]]
        assert prompt.columns["messages"] == messages  # Parquet's nulls for keys that a message lacks are gone
        assert list(prompt.ids) == chatty.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert prompt.text.endswith("[assistant]")
        assert chatty(prompt.text)["input_ids"] == [chatty.bos_token_id, *prompt.ids]


def test_chats_that_cannot_be_written(tokenizer, chatty):
    chats = [{"prompt": [{"role": "user", "content": f"Hi {i}"}]} for i in range(5)]
    tools = [*chats, {"prompt": [{"role": "tool", "content": "x"}]}]
    assert "line 6: the chat template of the model refuses these messages (no tools)" in refusal(encoded, tools, chatty)
    said = refusal(encoded, chats, chatty, max_tokens=3, truncate="end")
    assert "would cut off where its answer begins" in said
    tokenizer.chat_template = None
    assert "has no chat template: choose a model that was trained on chats" in refusal(encoded, chats, tokenizer)


def test_prompts_that_are_too_long(tokenizer, caplog):
    rows = [*({"prompt": f"a{i}"} for i in range(9)), {"prompt": "b " * 50, "k": 1}, {"prompt": "c " * 60}]
    said = refusal(encoded, rows, tokenizer, max_tokens=20)
    assert "2 of 11 prompts are longer than data.prompt.max_tokens=20" in said
    assert "p.jsonl, line 1" in said
    assert "data.truncate=end" in said
    with caplog.at_level(logging.WARNING):
        cut = {prompt.text: prompt for prompt in encoded(rows, tokenizer, max_tokens=20, truncate="end")}
    assert "2 of 11 prompts" in caplog.text
    long = cut["b " * 50]
    assert list(long.ids) == tokenizer("b " * 50)["input_ids"][:20]
    assert long.columns == {"k": 1}


# -- batches ----------------------------------------------------------------------------------------------------------


def test_columns_and_texts_follow_their_rows(tokenizer):
    prompts = encoded(ROWS[:8], tokenizer)
    batch = collate(prompts, tokenizer.pad_token_id, rows=range(8))
    answers = {row["prompt"]: row["answer"] for row in ROWS}
    twice = batch[2:5].repeat(2).to("cpu")
    assert twice.texts == tuple(prompt.text for prompt in prompts[2:5] for _ in range(2))
    assert [columns["answer"] for columns in twice.columns] == [answers[text] for text in twice.texts]
    assert len(twice) == len(twice.columns) == 6


def test_a_data_module_of_given_prompts(tokenizer):
    prompts = encoded(ROWS, tokenizer)
    parts = {"policy": prompts[:20], "validation": prompts[20:30], "test": prompts[30:]}
    module = PromptDataModule(parts, tokenizer, effective_batch_size=4, seed=0, val_prompts=6)
    module.setup("fit")
    (batch,) = module.train_dataloader()
    assert all(columns["answer"] for columns in batch.columns)
    seen = [text for found in module.val_dataloader() for text in found.texts]
    assert len(seen) == 6
    assert set(seen) <= {prompt.text for prompt in parts["validation"]}


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


# -- settings and a whole run -----------------------------------------------------------------------------------------


def overrides(file, model, *more):
    return [
        "data=prompts", f"data.path={file}", "data.validation_rows=5", "data.test_rows=7", "data.prompt.max_tokens=64", "model=local",
        f"model.path={model}", "reward=function", "reward.function=tests.rewards.test_function:length", "method=rloo", "max_steps=2",
        "max_new_tokens=6", "effective_batch_size=4", "method.completions_per_prompt=2", "rollout.top_k=32", "rollout.min_new_tokens=2",
        "evaluation.validate_every=1", *more,
    ]  # fmt: skip


def test_settings_are_those_of_prompts():
    with pytest.raises(SettingsError) as error:
        settings_of(composed(["data=prompts", "data.path=x.jsonl", "run.dir=x"]))
    for part in ("learns from labelled reviews", "reward=function, reward=sequence_classifier", "data=parquet"):
        assert part in str(error.value)
    assert "model=local" in str(error.value)
    for key in ("clean_html=true", "reward_rows=3", "policy_rows=3"):
        with pytest.raises(SettingsError, match=f"data.{key}.*another choice of this group has such a setting"):
            settings_of(composed(overrides("x.jsonl", "x", f"+data.{key}", "run.dir=x")))
    with pytest.raises(SettingsError, match=r"did you mean data\.prompt_column"):
        settings_of(composed(overrides("x.jsonl", "x", "+data.prompt_colum=y", "run.dir=x")))
    with pytest.raises(SettingsError, match=r"^data\.path.*name the prompts: data.path=FILE"):
        settings_of(composed(["data=prompts", "run.dir=x"]))
    moved = [
        config_hash(composed(overrides(f"{place}/p.jsonl", f"{place}/lm", f"data.test_path={place}/t.csv"))) for place in ("/a", "/b/c")
    ]
    assert moved[0] == moved[1]
    assert config_hash(composed(overrides("/a/q.jsonl", "/a/lm"))) != config_hash(composed(overrides("/a/p.jsonl", "/a/lm")))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, model_folder):
    folder = tmp_path_factory.mktemp("prompts")
    file = write(folder / "p.jsonl")
    cfg = composed(overrides(file, model_folder, f"run.dir={folder / 'run'}"))
    return folder, cfg, execute(cfg)


def test_a_whole_run(finished):
    folder, _, results = finished
    assert results["steps"] == 2
    assert results["test"]["n"] == 7
    assert results["judge"] is None
    assert results["splits"] == load_prompt_splits(str(folder / "p.jsonl"), **SIZES).fingerprints
    environment = json.loads((folder / "run" / "environment.json").read_text())
    assert environment["inputs"]["prompts"] == results["splits"]
    assert len(set(results["test"]["per_prompt"]["prompt_id"])) == 7


def test_a_finished_run_is_not_repeated_and_other_prompts_of_the_same_name_are_noticed(finished, tmp_path):
    _, cfg, results = finished
    assert execute(cfg)["seconds"] == results["seconds"]
    write(tmp_path / "p.jsonl", ROWS[1:])
    other = OmegaConf.merge(cfg, {"data": {"path": str(tmp_path / "p.jsonl")}})
    assert config_hash(other) == config_hash(cfg)
    assert "finished run of other reviews or prompts" in refusal(execute, other)


def test_too_long_prompts_are_refused_before_weights_are_loaded(finished, model_folder, tmp_path, monkeypatch):
    folder, *_ = finished
    monkeypatch.setattr("grade_lightning.setup.load_base", lambda *arguments, **options: pytest.fail("weights were loaded"))
    cfg = composed(overrides(folder / "p.jsonl", model_folder, "data.prompt.max_tokens=4", f"run.dir={tmp_path / 'run'}"))
    assert "are longer than data.prompt.max_tokens=4" in refusal(execute, cfg)


def test_generate_continues_a_text_verbatim(finished):
    folder, *_ = finished
    (folder / "p.jsonl").rename(folder / "gone.jsonl")  # the prompts of the run are not needed
    try:
        (pair,) = generate(Request(folder / "run", ["  Two  spaces<br />"], trust=True))
    finally:
        (folder / "gone.jsonl").rename(folder / "p.jsonl")
    assert pair["after"]["prompt"] == "  Two  spaces<br />"
    assert "judge" not in pair["after"]


def test_grade_ste_with_a_classifier_of_another_vocabulary(model_folder, tmp_path):
    """Any prompts, any classifier: the reward is differentiated through the text that tokens spell; no other key is needed."""
    file, classifier = write(tmp_path / "p.jsonl"), save_classifier(tmp_path / "classifier")
    options = [
        option for option in overrides(file, model_folder) if not option.startswith(("reward", "method", "effective_batch_size"))
    ]  # fmt: skip
    chosen = ["method=grade_ste", "reward=sequence_classifier", f"reward.path={classifier}", "effective_batch_size=4"]
    results = execute(composed([*options, *chosen, f"run.dir={tmp_path / 'run'}"]))
    assert results["steps"] == 2
    assert results["judge"] is None
    assert 0 < results["test"]["reward_mean"] < 1
