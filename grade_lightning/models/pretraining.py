"""A small base language model from scratch: byte-level BPE, the Qwen3 architecture, one pass over unlabelled reviews."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor
from torch.utils.data import DataLoader
from torchmetrics import MeanMetric
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from grade_lightning.data.corpus import Reviews, fingerprint
from grade_lightning.data.prompts import clean_html
from grade_lightning.models.cache import make_once
from grade_lightning.settings.model import PretrainSettings
from grade_lightning.step_bar import StepProgressBar

log = logging.getLogger(__name__)

VERSION = 1  # of everything below that changes the weights; part of the cache key
EOT, PAD = "<|endoftext|>", "<|pad|>"


def train_tokenizer(texts: Iterator[str], vocab_size: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE; a special token opens each text (the tokenizer adds it) and ends it."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, special_tokens=[EOT, PAD], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{EOT} $A", special_tokens=[(EOT, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=EOT, eos_token=EOT, pad_token=PAD, padding_side="left", clean_up_tokenization_spaces=False
    )


def model_config(settings: PretrainSettings) -> Qwen3Config:
    """A Qwen3 with tied embeddings."""
    return Qwen3Config(
        vocab_size=settings.vocab_size, hidden_size=settings.hidden_size, intermediate_size=settings.mlp_size,
        num_hidden_layers=settings.layers, num_attention_heads=settings.heads, num_key_value_heads=settings.kv_heads,
        head_dim=settings.hidden_size // settings.heads, max_position_embeddings=4 * settings.context, tie_word_embeddings=True,
        bos_token_id=0, eos_token_id=0, pad_token_id=1,
    )  # fmt: skip


def build_model(settings: PretrainSettings) -> Qwen3ForCausalLM:
    """A Qwen3 of these settings with random initial weights."""
    config = model_config(settings)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        return Qwen3ForCausalLM(config)


def _sequences(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, context: int) -> list[np.ndarray]:
    """Each review with its end token, cut into sequences of at most ``context + 1`` tokens (inputs and shifted targets)."""
    pieces = []
    for ids in tokenizer(list(texts))["input_ids"]:
        whole = np.asarray([*ids, tokenizer.eos_token_id], dtype=np.int64)
        pieces += [whole[i : i + context + 1] for i in range(0, len(whole) - 1, context)]
    return pieces


def _batches(pieces: Sequence[np.ndarray], batch_tokens: int, rng: np.random.Generator) -> list[list[int]]:
    """Batches of pieces of similar length, about ``batch_tokens`` tokens each, in random order."""
    jitter = rng.random(len(pieces))
    order = sorted(range(len(pieces)), key=lambda i: (len(pieces[i]), jitter[i]))
    batches: list[list[int]] = [[]]
    for i in order:
        if (len(batches[-1]) + 1) * len(pieces[i]) > batch_tokens and batches[-1]:
            batches.append([])
        batches[-1].append(i)
    rng.shuffle(batches)
    return batches


def _pad(pieces: Sequence[np.ndarray]) -> Tensor:
    """[B, L] ids, -1 where padded (on the right)."""
    width = max(len(piece) for piece in pieces)
    ids = torch.full((len(pieces), width), -1)
    for row, piece in enumerate(pieces):
        ids[row, : len(piece)] = torch.from_numpy(piece)
    return ids


class PretrainModule(L.LightningModule):
    """Next-token cross-entropy; logs training loss and validation perplexity (torchmetrics, per real token)."""

    def __init__(self, model: Qwen3ForCausalLM, settings: PretrainSettings, steps: int):
        super().__init__()
        self.model, self.settings, self.steps = model, settings, steps
        self.validation_loss = MeanMetric()

    def _loss(self, ids: Tensor) -> tuple[Tensor, Tensor]:
        targets = ids[:, 1:]
        logits = self.model(input_ids=ids[:, :-1].clamp_min(0)).logits  # right padding: causal attention never looks at it
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), ignore_index=-1)
        return loss, (targets >= 0).sum()

    def training_step(self, ids: Tensor, batch_idx: int) -> Tensor:
        loss, _ = self._loss(ids)
        self.log("loss", loss, prog_bar=True, logger=False)
        return loss

    def validation_step(self, ids: Tensor, batch_idx: int) -> None:
        loss, tokens = self._loss(ids)
        self.validation_loss.update(loss, tokens)

    def on_validation_epoch_end(self) -> None:
        self.log("val_loss", self.validation_loss.compute(), logger=False)
        self.validation_loss.reset()

    def configure_optimizers(self):  # type: ignore[no-untyped-def]
        matrices = [weight for weight in self.parameters() if weight.dim() >= 2]
        vectors = [weight for weight in self.parameters() if weight.dim() < 2]
        groups = [{"params": matrices, "weight_decay": self.settings.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=self.settings.lr, betas=(0.9, 0.95))
        rise = max(1, round(self.settings.warmup * self.steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / rise, (self.steps - step) / max(1, self.steps - rise))
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def pretrain(
    reviews: Reviews, settings: PretrainSettings, folder: Path, *, accelerator: str = "cpu", precision: str = "fp32"
) -> dict[str, Any]:
    """Train tokenizer and model on the texts and save both in the Hugging Face layout.

    Args:
        reviews: texts, the first of which are held out.
        settings: shape and recipe.
        folder: where the model goes.
        accelerator: ``cpu`` or ``cuda``.
        precision: of products: ``fp32``, or ``bf16`` by autocast.  Weights are fp32 with either.

    Returns:
        ``perplexity`` and ``loss`` (nats per token) on held-out reviews, ``tokens`` seen, ``steps``, ``seconds``, and the ``precision``
        where it is not fp32.

    Raises:
        ValueError: too few reviews, or a vocabulary that the corpus cannot fill.
    """
    if len(reviews) < 2 * settings.validation_rows:
        raise ValueError(f"pretraining needs at least {2 * settings.validation_rows:,} unlabelled reviews, got {len(reviews):,}")
    start = time.perf_counter()
    texts = [clean_html(text) for text in reviews.texts]
    tokenizer = train_tokenizer(iter(texts), settings.vocab_size)
    if len(tokenizer) != settings.vocab_size:
        raise ValueError(f"the corpus fills only {len(tokenizer):,} of {settings.vocab_size:,} BPE tokens: lower model.pretrain.vocab_size")
    held_out = _sequences(texts[: settings.validation_rows], tokenizer, settings.context)
    pieces = _sequences(texts[settings.validation_rows :], tokenizer, settings.context)
    rng = np.random.Generator(np.random.PCG64(settings.seed))
    plan = [batch for _ in range(settings.epochs) for batch in _batches(pieces, settings.batch_tokens, rng)]
    module = PretrainModule(build_model(settings), settings, len(plan))
    trainer = L.Trainer(
        accelerator=accelerator, devices=1, max_epochs=1, logger=False, enable_checkpointing=False, enable_model_summary=False,
        precision="bf16-mixed" if precision == "bf16" else "32-true",
        num_sanity_val_steps=0, gradient_clip_val=1.0, limit_val_batches=1.0, enable_progress_bar=True,
        callbacks=[StepProgressBar("pretraining the base LM", len(plan))],
    )  # fmt: skip
    collate: Callable[[Sequence[np.ndarray]], Tensor] = _pad
    training: DataLoader[Tensor] = DataLoader(pieces, batch_sampler=plan, collate_fn=collate)  # type: ignore[arg-type]
    validation: DataLoader[Tensor] = DataLoader(held_out, batch_size=32, collate_fn=collate)  # type: ignore[arg-type]
    trainer.fit(module, training, validation)
    loss = float(trainer.callback_metrics["val_loss"])
    module.model.cpu().eval().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    tokens = settings.epochs * sum(len(piece) - 1 for piece in pieces)
    report: dict[str, Any] = {"perplexity": math.exp(loss), "loss": loss, "tokens": tokens, "steps": len(plan)}
    report |= {} if precision == "fp32" else {"precision": precision}  # what is no change keeps the file, and with it the fingerprint
    # No time of day and no duration: the file is part of the folder's fingerprint, which names the model.
    (folder / "pretraining.json").write_text(json.dumps({**report, "settings": asdict(settings)}, indent=1) + "\n")
    return {**report, "seconds": time.perf_counter() - start}


def pretrained_folder(reviews: Reviews, settings: PretrainSettings, *, accelerator: str = "cpu") -> Path:
    """The cached base LM for these reviews and settings, pretrained now if it is not there."""
    ingredients = {"version": VERSION, "settings": asdict(settings), "reviews": fingerprint(reviews)}

    def make(folder: Path) -> None:
        log.info("no base LM for this corpus in the cache: pretraining one on %s reviews", f"{len(reviews):,}")
        pretrain(reviews, settings, folder, accelerator=accelerator)

    return make_once("base-lm", ingredients, make)
