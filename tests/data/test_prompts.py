"""The paper's prompt rule, padding, and the order of prompts."""

import numpy as np
import pytest
import torch

from grade_lightning.data.module import IMDBDataModule, ReviewDataModule, rows_of_step
from grade_lightning.data.prompts import clean_html, collate, make_prompts, opening


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("One. Two! Three?", "One. Two!"),
        ("Only one sentence without an end", "Only one sentence without an end"),
        ('He said "Go." Then he left. And more.', 'He said "Go." Then he left.'),
        ("It cost 3.50 dollars. Cheap!", "It cost 3.50 dollars. Cheap!"),
        ("First line\nsecond line. Third.", "First line\nsecond line."),
        ("Short. " + "x" * 300 + ".", "Short."),
        ("word " * 100, ("word " * 40).strip()),
        ("x" * 300, "x" * 200),
    ],
)
def test_opening(text, expected):
    assert opening(text) == expected
    assert len(opening(text)) <= 200


def test_html_breaks_become_newlines():
    assert clean_html("a<br /><br />b<BR>c") == "a\nb\nc"


def test_at_most_32_tokens_with_the_special_token(tokenizer):
    prompt = make_prompts(["many different words in here " * 20], [1], tokenizer)[0]
    assert len(prompt.ids) == 32
    assert prompt.ids[0] == tokenizer.bos_token_id


def test_left_padding(tokenizer):
    prompts = make_prompts(["The film.", "The film was shot in 1983 and runs about 90 minutes."], [0, 1], tokenizer)
    batch = collate(prompts, tokenizer.pad_token_id, rows=[0, 1])
    assert batch.mask[:, -1].all()
    assert not batch.mask[0, 0]
    assert (batch.ids[~batch.mask] == tokenizer.pad_token_id).all()
    assert tuple(batch.ids[0][batch.mask[0]].tolist()) == prompts[0].ids


def test_each_pass_sees_every_row_once_whatever_the_batch():
    rows = np.concatenate([rows_of_step(3, step, 4, 10) for step in range(1, 6)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))
    assert not np.array_equal(rows[:10], rows[10:])
    bigger = np.concatenate([rows_of_step(3, step, 10, 10) for step in (1, 2)])
    assert np.array_equal(rows, bigger)


def test_training_batches_follow_the_step_not_the_iterator(data_module):
    data_module.setup()
    loader = data_module.train_dataloader()
    loader.sampler.set_epoch(4)
    late = next(iter(loader))
    assert late.step == 5
    expected = [data_module.prompts["policy"][row].key for row in rows_of_step(0, 5, 4, 80)]
    assert list(late.keys) == expected


def test_evaluation_subset_is_fixed_and_seeded(splits, tokenizer):
    def keys(seed):
        module = ReviewDataModule(splits, tokenizer, effective_batch_size=4, seed=9, val_prompts=7, subset_seed=seed)
        module.setup()
        return [prompt.key for prompt in module.prompts["validation"]]

    assert keys(0) == keys(0)
    assert len(keys(0)) == 7
    assert keys(0) != keys(1)


def test_evaluation_batches_hold_every_prompt_once(data_module):
    data_module.setup()
    rows = torch.cat([batch.rows for batch in data_module.val_dataloader()])
    assert sorted(rows.tolist()) == list(range(20))


def test_imdb_in_the_papers_splits(imdb_folder, tokenizer):
    module = IMDBDataModule.from_parquet(imdb_folder, tokenizer, effective_batch_size=4, seed=0, val_prompts=8, test_prompts=8)
    module.setup()
    sizes = [len(getattr(module.splits, name)) for name in ("reward", "policy", "validation", "test")]
    assert sizes == [5000, 10000, 2000, 25000]
    assert [len(module.prompts[name]) for name in ("policy", "validation", "test")] == [10000, 8, 8]
