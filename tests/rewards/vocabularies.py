"""Small tokenizers of several kinds, trained on the spot, and classifiers that read them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import (
    DistilBertConfig,
    DistilBertForSequenceClassification,
    GemmaConfig,
    GemmaForSequenceClassification,
    PreTrainedTokenizerFast,
)

from grade_lightning.models.pretraining import train_tokenizer

TEXTS = [
    "I watched The Broken Garden on cable. It looked cheap, and the ending was absurd!",
    "Vega plays a pilot who finds a box of letters; what a wonderful, gripping film.",
    "Naïve café jokes — “quoted”, 12,345 of them… ünïcödé 日本語 and emoji 😀👩‍👩‍👧 too.",
    "the actors the acting the actor unacted reacting",
] * 4  # fmt: skip


def byte_level(size: int = 300, texts: Iterable[str] = TEXTS) -> PreTrainedTokenizerFast:
    return train_tokenizer(iter(texts), size)


def bytes_alone() -> PreTrainedTokenizerFast:
    """256 tokens of a byte each, and two special ones: every text has one spelling."""
    return train_tokenizer(iter(["ab"]), 258)


def word_piece(size: int = 200, texts: Iterable[str] = TEXTS, *, lower: bool = True) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=special, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.decoder = decoders.WordPiece()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")


def unigram(size: int = 120) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<pad>", "<unk>"], unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>")


def byte_fallback() -> PreTrainedTokenizerFast:
    """As Llama 2's: a space is U+2581, what has no token is spelled by bytes."""
    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for token in ("\u2581", "t", "h", "e", "a", "c", "th", "the", "\u2581a", "\u2581the"):
        vocabulary[token] = len(vocabulary)
    merges = [("t", "h"), ("th", "e"), ("\u2581", "a"), ("\u2581", "the")]
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    tokenizer.normalizer = normalizers.Replace(" ", "\u2581")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>", bos_token="<s>", unk_token="<unk>", pad_token="</s>")


def distilbert(tokenizer: PreTrainedTokenizerFast, *, words: float = 1.0, labels: int = 2) -> DistilBertForSequenceClassification:
    """Random, in fp64.  ``words`` scales word embeddings: small ones are in the range where first order is all there is."""
    config = DistilBertConfig(
        vocab_size=len(tokenizer), dim=24, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=256, num_labels=labels,
        pad_token_id=tokenizer.pad_token_id, dropout=0.0, attention_dropout=0.0, seq_classif_dropout=0.0,
        id2label=dict(enumerate(["negative", "positive", "neutral"][:labels])),
    )  # fmt: skip
    model = DistilBertForSequenceClassification(config).double().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.4)
        model.get_input_embeddings().weight.mul_(words)
    return model


def gemma(tokenizer: PreTrainedTokenizerFast) -> GemmaForSequenceClassification:
    """Random, in fp64; multiplies its embeddings with a scale of its own."""
    config = GemmaConfig(
        vocab_size=len(tokenizer), hidden_size=24, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1, head_dim=16,
        intermediate_size=32, num_labels=2, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = GemmaForSequenceClassification(config).double().eval()
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.dim() > 1:
                weight.copy_(torch.randn(weight.shape, generator=generator, dtype=torch.float64) * 0.2)
    return model


def save_classifier(folder: Path, *, words: float = 1.0, labels: int = 2, texts: Iterable[str] = TEXTS) -> Path:
    """A DistilBERT with a WordPiece vocabulary of its own, in the Hugging Face layout."""
    tokenizer = word_piece(texts=texts)
    distilbert(tokenizer, words=words, labels=labels).float().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
