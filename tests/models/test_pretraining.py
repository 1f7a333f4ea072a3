"""Pretraining: the tokenizer, and a model that beats the unigram distribution."""

import math
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from grade_lightning.data.synthetic import SyntheticSource
from grade_lightning.models.base import load_base
from grade_lightning.models.cache import files_fingerprint
from grade_lightning.models.pretraining import PretrainSettings, build_model, pretrain
from grade_lightning.training.machine import cpu_has_bf16

SMALL = PretrainSettings(vocab_size=400, hidden_size=48, layers=2, heads=2, kv_heads=1, mlp_size=96, context=64, batch_tokens=1024,
                         lr=5e-3, validation_rows=20)  # fmt: skip


@pytest.fixture(scope="module")
def reviews():
    return SyntheticSource(2, 2, 500).load().unsupervised()


@pytest.fixture(scope="module")
def trained(reviews, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    return folder, pretrain(reviews, SMALL, folder)


def test_beats_the_unigram_distribution(trained, reviews):
    folder, report = trained
    tokenizer = load_base(str(folder)).tokenizer
    ids = [token for text in reviews.texts for token in tokenizer(text)["input_ids"][1:]]
    counts = Counter(ids)
    entropy = -sum(n / len(ids) * math.log(n / len(ids)) for n in counts.values())
    assert report["loss"] < entropy - 0.5
    assert report["perplexity"] == pytest.approx(math.exp(report["loss"]))


def test_saved_model_loads_and_its_tokenizer_round_trips(trained, reviews):
    base = load_base(str(trained[0]))
    ids = base.tokenizer(reviews.texts[0])["input_ids"]
    assert ids[0] == base.tokenizer.bos_token_id
    assert base.tokenizer.decode(ids, skip_special_tokens=True) == reviews.texts[0]
    assert base.tokenizer.padding_side == "left"
    assert base.tokenizer.decode(base.tokenizer("naïve café ☂")["input_ids"], skip_special_tokens=True) == "naïve café ☂"


def test_the_same_recipe_makes_the_same_files(trained, reviews, tmp_path):
    """Whatever time it took: the fingerprint names the model, and a run goes on with the model that it began with."""
    pretrain(reviews, SMALL, tmp_path)
    assert files_fingerprint(tmp_path) == files_fingerprint(trained[0])
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == {file.name: file.read_bytes() for file in trained[0].iterdir()}


@pytest.mark.skipif(not cpu_has_bf16(), reason="this processor emulates bf16")
def test_products_in_bf16_teach_as_much_to_weights_in_fp32(trained, reviews, tmp_path):
    report = pretrain(reviews, SMALL, tmp_path, precision="bf16")
    assert report["loss"] == pytest.approx(trained[1]["loss"], abs=0.05)
    assert report["loss"] != trained[1]["loss"]
    kept = load_file(tmp_path / "model.safetensors")
    assert {weight.dtype for weight in kept.values()} == {torch.float32}


def test_tiny_is_about_one_million_weights():
    assert 0.8e6 < sum(weight.numel() for weight in build_model(PretrainSettings()).parameters()) < 1.2e6


def test_too_few_reviews(tmp_path):
    with pytest.raises(ValueError, match="at least 800"):
        pretrain(SyntheticSource(2, 2, 50).load().unsupervised(), PretrainSettings(), tmp_path)


def test_vocabulary_that_the_corpus_cannot_fill(tmp_path, reviews):
    with pytest.raises(ValueError, match=r"model.pretrain.vocab_size"):
        pretrain(reviews, PretrainSettings(vocab_size=50_000, validation_rows=20), tmp_path)
