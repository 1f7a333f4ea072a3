"""A user's own prompts in use: verbatim texts, chats, length, batches, and a whole run."""

from __future__ import annotations

import json
import logging

import pytest
from omegaconf import OmegaConf

from grade_lightning.compose import composed, config_hash, settings_of
from grade_lightning.data.encoding import encode_splits
from grade_lightning.data.module import PromptDataModule
from grade_lightning.data.own import load_prompt_splits, make_prompt_splits, prompt_rows
from grade_lightning.data.prompts import collate
from grade_lightning.data.tables import Table
from grade_lightning.generate import Request, generate
from grade_lightning.run import execute
from grade_lightning.settings import SettingsError
from tests.data.own_prompts import ROWS, SIZES, TEMPLATE, refusal, write
from tests.rewards.vocabularies import save_classifier

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
