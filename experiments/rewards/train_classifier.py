"""A sentiment classifier with a vocabulary of its own: DistilBERT's shape made small, WordPiece, trained on IMDB's reward split.

python -m experiments.rewards.train_classifier --data IMDB_FOLDER --out CLASSIFIER
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import tqdm
from transformers import DistilBertConfig, DistilBertForSequenceClassification, PreTrainedTokenizerFast

from grade_lightning.data.corpus import Reviews, make_splits
from grade_lightning.data.prompts import review_texts
from grade_lightning.data.sources import ParquetSource
from grade_lightning.training.environment import environment

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
OPENING_WORDS = 60  # about a prompt with its completion: what the reward will read


def word_piece(texts: list[str], size: int) -> PreTrainedTokenizerFast:
    """BERT's kind of vocabulary, lower case, trained on these texts."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))  # noqa: S106  a token of a vocabulary
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.train_from_iterator(texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=SPECIAL, show_progress=False))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    tokenizer.decoder = decoders.WordPiece()
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=512, **names)


def openings(texts: list[str]) -> list[str]:
    """The first words of each text."""
    return [" ".join(text.split()[:OPENING_WORDS]) for text in texts]


def train(reviews: Reviews, tokenizer: PreTrainedTokenizerFast, chosen: argparse.Namespace) -> DistilBertForSequenceClassification:
    """AdamW on whole reviews, cut to ``max_length`` tokens, and their openings."""
    torch.manual_seed(chosen.seed)
    model = DistilBertForSequenceClassification(DistilBertConfig(
        vocab_size=len(tokenizer), dim=chosen.width, n_layers=chosen.layers, n_heads=4, hidden_dim=4 * chosen.width, pad_token_id=0,
        max_position_embeddings=512, dropout=0.2, attention_dropout=0.1, seq_classif_dropout=0.2, num_labels=2,
        id2label={0: "negative", 1: "positive"}, label2id={"negative": 0, "positive": 1},
    ))  # fmt: skip
    whole = review_texts(reviews, True)
    texts, labels = [*whole, *openings(whole)], torch.tensor([*reviews.labels, *reviews.labels])
    optimizer = torch.optim.AdamW(model.parameters(), lr=chosen.lr, weight_decay=0.05)
    steps = chosen.epochs * -(-len(texts) // chosen.batch)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, chosen.lr, total_steps=steps, pct_start=0.1)
    model.train()
    with tqdm(total=steps, desc="training the classifier", mininterval=10) as progress:
        for _ in range(chosen.epochs):
            for rows in torch.randperm(len(texts)).split(chosen.batch):
                batch = tokenizer(
                    [texts[row] for row in rows], padding=True, truncation=True, max_length=chosen.max_length, return_tensors="pt"
                )
                loss = model(**{k: batch[k] for k in ("input_ids", "attention_mask")}, labels=labels[rows]).loss
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                progress.update(1)
    return model.eval()


def _encoded(tokenizer: PreTrainedTokenizerFast, texts: list[str], longest: int) -> dict[str, torch.Tensor]:
    batch = tokenizer(texts, padding=True, truncation=True, max_length=longest, return_tensors="pt")
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def accuracy(
    model: DistilBertForSequenceClassification, tokenizer: PreTrainedTokenizerFast, texts: list[str], labels: torch.Tensor
) -> float:
    """Share of texts that are classified as labelled."""
    right = 0
    for rows in torch.arange(len(texts)).split(64):
        found = model(**_encoded(tokenizer, [texts[row] for row in rows], 256)).logits.argmax(dim=-1)
        right += int((found == labels[rows]).sum())
    return right / len(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder with IMDB as Parquet")
    parser.add_argument("--out", required=True, type=Path)
    for name, kind, default in (("vocab", int, 8000), ("width", int, 128), ("layers", int, 2), ("epochs", int, 4), ("batch", int, 32),
                                ("lr", float, 1e-3), ("max_length", int, 128), ("seed", int, 0)):  # fmt: skip
        parser.add_argument(f"--{name}", type=kind, default=default)
    chosen = parser.parse_args()
    splits = make_splits(ParquetSource(chosen.data).load())
    tokenizer = word_piece(review_texts(splits.reward, True), chosen.vocab)
    model = train(splits.reward, tokenizer, chosen)
    texts, labels = review_texts(splits.unused, True)[:2000], torch.from_numpy(splits.unused.labels)[:2000]
    report = {
        "heldout_rows": len(texts), "heldout_accuracy_reviews": accuracy(model, tokenizer, texts, labels),
        "heldout_accuracy_openings": accuracy(model, tokenizer, openings(texts), labels), "splits": splits.fingerprints,
        "settings": {key: value for key, value in vars(chosen).items() if key not in ("data", "out")}, "environment": environment(),
    }  # fmt: skip
    model.save_pretrained(chosen.out)
    tokenizer.save_pretrained(chosen.out)
    (chosen.out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({key: report[key] for key in report if key.startswith("heldout")}))


if __name__ == "__main__":
    main()
