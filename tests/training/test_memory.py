"""The memory estimate: against known sizes, and what it refuses."""

import pytest
from transformers import Qwen3Config

from grade_lightning.training import memory
from grade_lightning.training.memory import GIB, Batch, Shape, check_memory, estimate

QWEN3_4B = Qwen3Config(
    vocab_size=151936, hidden_size=2560, intermediate_size=9728, num_hidden_layers=36, num_attention_heads=32, num_key_value_heads=8,
    head_dim=128, tie_word_embeddings=True,
)  # fmt: skip
OPTIONS = {"rows": 16, "prompt_tokens": 32, "new_tokens": 64, "lora_rank": 16, "graphs": 2, "accelerator": "cpu"}


@pytest.fixture(scope="module")
def shape():
    return Shape.of(QWEN3_4B)


def test_qwen3_4b_has_its_published_size(shape):
    """4.0 B weights, 3.6 B of them outside the embeddings (model card)."""
    assert shape.weights == pytest.approx(4.0e9, rel=0.01)
    assert shape.weights - shape.vocab_size * shape.hidden_size == pytest.approx(3.6e9, rel=0.02)


def test_estimate_grows_with_what_it_should(shape):
    def total(rows=16, new=64, graphs=2, precision="bf16"):
        return sum(estimate(shape, Batch(rows, 32, new), precision=precision, lora_rank=16, graphs=graphs).values())

    assert total(rows=1) < total(rows=16) < total(new=128)
    assert total(graphs=1) < total(graphs=2)
    assert total(precision="fp32") > 1.5 * total()
    assert 8 * GIB < total() < 40 * GIB  # it fits an A100 of 40 GB whole


@pytest.mark.parametrize(
    ("free", "precision", "remedy"),
    [(12, "bf16", "hardware.grad_accumulation="), (10, "fp32", "hardware.precision=bf16"), (4, "bf16", "choose a smaller model")],
)
def test_what_cannot_fit_is_refused_with_what_would(shape, monkeypatch, free, precision, remedy):
    monkeypatch.setattr(memory, "available", lambda accelerator: free * GIB)
    with pytest.raises(ValueError, match=remedy):
        check_memory(shape, accumulation=1, precision=precision, **OPTIONS)


def test_the_setting_it_names_fits(shape, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda accelerator: 12 * GIB)
    with pytest.raises(ValueError, match="grad_accumulation") as error:
        check_memory(shape, accumulation=1, precision="bf16", **OPTIONS)
    parts = int(str(error.value).split("grad_accumulation=")[1].split()[0])
    check_memory(shape, accumulation=parts, precision="bf16", **OPTIONS)
