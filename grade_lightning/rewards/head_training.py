"""Training the reward head once per (base, data, settings), and saying how good it is."""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import BinaryAccuracy

from grade_lightning.data.corpus import Reviews, Splits, fingerprint
from grade_lightning.data.prompts import review_texts
from grade_lightning.models.base import BaseLM
from grade_lightning.models.cache import make_once
from grade_lightning.models.policy import positions_of
from grade_lightning.models.supported import backbone
from grade_lightning.progress import bar
from grade_lightning.rewards.base import RewardInputs
from grade_lightning.rewards.classifier import ClassifierReward
from grade_lightning.rewards.head import RewardHead, mean_pool
from grade_lightning.settings.reward import HeadSettings, PreferenceHeadSettings

log = logging.getLogger(__name__)

VERSION = 1  # of everything below that changes the head; part of the cache key
OPENING_TOKENS = 96  # about what the policy writes: 32 prompt tokens and 64 new ones
MINIMUM_ACCURACY = 0.6


@torch.no_grad()
def features(
    base: BaseLM, texts: Sequence[str], max_tokens: int, *, description: str, batch_tokens: int = 8192, special: bool = True
) -> Tensor:
    """Mean-pooled last hidden states of whole texts cut to ``max_tokens``.  -> [N, d] in fp32, on the model's device.

    The base is frozen, so that each text needs one forward pass however many epochs the head is trained for.

    Args:
        base: frozen.
        texts: N texts.
        max_tokens: of a text.
        description: of the progress bar.
        batch_tokens: at once, padding included.
        special: let the tokenizer add its special tokens, which a chat template has written already.
    """
    ids = base.tokenizer(list(texts), truncation=True, max_length=max_tokens, add_special_tokens=special)["input_ids"]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]), reverse=True)
    device = base.model.device
    pooled = torch.empty(len(ids), base.model.config.get_text_config().hidden_size, device=device)
    with bar(total=len(ids), desc=description, unit="review") as progress:
        start = 0
        while start < len(order):
            rows = order[start : start + max(1, batch_tokens // len(ids[order[start]]))]
            padded = base.tokenizer.pad({"input_ids": [ids[i] for i in rows]}, return_tensors="pt", padding_side="right").to(device)
            mask = padded["attention_mask"].bool()
            hidden = backbone(base.model)(
                input_ids=padded["input_ids"], attention_mask=padded["attention_mask"], position_ids=positions_of(mask)
            ).last_hidden_state
            pooled[rows] = mean_pool(hidden, mask).float()
            progress.update(len(rows))
            start += len(rows)
    return pooled


def fit_head(inputs: Tensor, labels: Tensor, settings: HeadSettings) -> RewardHead:
    """Cross-entropy on fixed features.  inputs [N, d], labels [N]."""

    def loss(head: RewardHead, features: Tensor, truth: Tensor) -> Tensor:
        return F.cross_entropy(head(features), truth)

    return fit_on_features((inputs, labels), loss, settings, outputs=2)


def fit_on_features(
    columns: tuple[Tensor, ...], loss_of: Callable[..., Tensor], settings: HeadSettings | PreferenceHeadSettings, *, outputs: int
) -> RewardHead:
    """AdamW on fixed features.

    Args:
        columns: of N rows each; features [N, d] first.
        loss_of: of the head and some rows of each column.
        settings: recipe.
        outputs: of the head.
    """
    head = RewardHead(columns[0].shape[1], outputs=outputs, seed=settings.seed).to(columns[0].device)
    optimizer = torch.optim.AdamW(head.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        for rows in torch.randperm(len(columns[0]), generator=generator).split(settings.batch_size):
            loss = loss_of(head, *(column[rows] for column in columns))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return head


@torch.no_grad()
def _accuracy(head: RewardHead, inputs: Tensor, labels: Tensor) -> float:
    metric = BinaryAccuracy().to(inputs.device)
    return float(metric(head(inputs).argmax(dim=-1), labels))


def rows_of(splits: Splits, settings: HeadSettings) -> tuple[Reviews, Reviews]:
    """What a head learns from, and the rows on which its accuracy is measured.

    Raises:
        ValueError: there are fewer than it asks for.
    """
    unused, held = splits.unused, np.arange(min(settings.heldout_rows, len(splits.unused)))
    heldout, left = unused.take(held), unused.take(np.arange(len(held), len(unused)))
    learn = splits.reward
    if settings.learn_from == "labelled":
        parts = (learn, splits.policy, splits.validation, splits.test, left)
        learn = Reviews([text for part in parts for text in part.texts], np.concatenate([part.labels for part in parts]))
    if settings.rows is not None and settings.rows > len(learn):
        raise ValueError(f"head.rows={settings.rows} of only {len(learn):,} labelled rows: lower it, or raise data.reward_rows")
    return learn if settings.rows is None else learn.take(np.arange(settings.rows)), heldout


def _train(base: BaseLM, splits: Splits, settings: HeadSettings, clean: bool, folder: Path) -> None:
    device = base.model.device
    learn, heldout = rows_of(splits, settings)
    inputs = features(base, review_texts(learn, clean), settings.text_tokens, description="reading labelled reviews")
    labels = torch.from_numpy(learn.labels).to(device)
    head = fit_head(inputs, labels, settings)
    report: dict[str, float] = {"train_rows": len(learn), "heldout_rows": len(heldout)}
    report["train_accuracy"] = _accuracy(head, inputs, labels)
    if len(heldout):
        truth, texts = torch.from_numpy(heldout.labels).to(device), review_texts(heldout, clean)
        longest = getattr(base.model.config.get_text_config(), "max_position_embeddings", 1024)
        for name, tokens in (("reviews", min(1024, longest)), ("openings", OPENING_TOKENS)):
            held_out = features(base, texts, tokens, description=f"held-out {name}")
            report[f"heldout_accuracy_{name}"] = _accuracy(head, held_out, truth)
    head.save(folder / "head.safetensors")
    (folder / "report.json").write_text(json.dumps({**report, "settings": asdict(settings)}, indent=1) + "\n")


def _learned(splits: Splits, settings: HeadSettings) -> str:
    """Fingerprint of the rows that a head learns from, a part of which the settings name."""
    return splits.fingerprints["reward"] if settings.learn_from == "reward" else fingerprint(rows_of(splits, settings)[0])


def reward_head(base: BaseLM, splits: Splits, settings: HeadSettings, *, clean: bool = True) -> tuple[RewardHead, dict[str, float]]:
    """The cached head for this base and these reviews, trained now if it is not there, and its report.

    The report holds accuracy on labelled rows that no split uses, for whole reviews and for openings of 96 tokens.

    Raises:
        ValueError: held-out accuracy below 0.6: optimising such a reward would mean nothing.
    """
    dtype = str(base.model.dtype).removeprefix("torch.")
    data = {"reward": _learned(splits, settings), "heldout": fingerprint(splits.unused), "clean_html": clean}
    ingredients = {"version": VERSION, "settings": asdict(settings), "base": base.fingerprint, "dtype": dtype, "data": data}
    folder = make_once("reward-head", ingredients, lambda path: _train(base, splits, settings, clean, path))
    report = json.loads((folder / "report.json").read_text())
    if not report["heldout_rows"]:
        log.warning("no labelled row is left outside the splits: the reward head's held-out accuracy is unknown")
    accuracy = report.get("heldout_accuracy_openings", math.nan)
    if accuracy < MINIMUM_ACCURACY:
        raise ValueError(
            f"the reward head is right on only {accuracy:.0%} of held-out openings (at least {MINIMUM_ACCURACY:.0%} is needed): raise "
            "reward.head.epochs, reward.head.lr or data.reward_rows, or use a larger base LM"
        )
    return RewardHead.load(folder / "head.safetensors").to(base.model.device), report


def trained_classifier(inputs: RewardInputs, *, head: HeadSettings, scope: str = "full") -> tuple[ClassifierReward, dict[str, float]]:
    """The reward group's ``classifier_head``: a reward on the policy's own base, and its report.

    Args:
        inputs: the head is trained on the labelled reward split.
        head: recipe.
        scope: see :class:`ClassifierReward`.

    Raises:
        ValueError: the data have no labels.
    """
    if inputs.splits is None:
        raise ValueError("reward=classifier_head is trained on labelled reviews: use reward=function, or data with labels (data=parquet)")
    with inputs.policy.reference():
        trained, report = reward_head(inputs.base, inputs.splits, head, clean=inputs.clean_html)
    return ClassifierReward(inputs.policy, trained, scope=scope), report
