"""The DataModule that every method shares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PreTrainedTokenizerBase

from grade_lightning.data.corpus import Reviews, Splits, make_splits
from grade_lightning.data.prompts import Prompt, PromptBatch, collate, make_prompts
from grade_lightning.data.sources import ParquetSource

# Policy step (0 in evaluation), rows of the split, and the places under which they are reported.
BatchIndex = tuple[int, Sequence[int], Sequence[int]]


def rows_of_step(seed: int, step: int, batch_size: int, total: int) -> np.ndarray:
    """The rows of policy step ``step`` (from 1): slices of consecutive permutations keyed by (seed, pass over the data).

    A function of (seed, step) alone, so that neither resuming nor the number of workers can change the order.
    """
    positions = np.arange((step - 1) * batch_size, step * batch_size)
    rows = np.empty(batch_size, dtype=int)
    for epoch in np.unique(positions // total):
        inside = positions // total == epoch
        permutation = np.random.Generator(np.random.PCG64([seed, int(epoch)])).permutation(total)
        rows[inside] = permutation[positions[inside] % total]
    return rows


def _as_it_is(batch: Any) -> Any:
    return batch


class _Batches(Dataset[PromptBatch]):
    """Whole batches by (policy step, rows in split, places to report)."""

    def __init__(self, prompts: list[Prompt], pad_id: int):
        self.prompts, self.pad_id = prompts, pad_id

    def __len__(self) -> int:
        return len(self.prompts)

    def __getitem__(self, index: BatchIndex) -> PromptBatch:
        step, rows, places = index
        return collate([self.prompts[row] for row in rows], self.pad_id, rows=places, step=step)


class PolicyStepSampler(Sampler[BatchIndex]):
    """One whole effective batch: the prompts of the policy step that comes after the trainer's current epoch.

    One Lightning "epoch" is one policy step, so the trainer's own epoch counter is the policy-step counter: validation
    interval, checkpoints and resume all count policy steps, however many optimizer steps a method makes in one.
    """

    def __init__(self, seed: int, batch_size: int, total: int):
        self.seed, self.batch_size, self.total, self.epoch = seed, batch_size, total, 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch, on a loader's ``sampler`` (never on its ``batch_sampler``)."""
        self.epoch = epoch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[BatchIndex]:
        step = self.epoch + 1
        yield step, rows_of_step(self.seed, step, self.batch_size, self.total).tolist(), range(self.batch_size)


class PromptDataModule(L.LightningDataModule):
    """Batches of the prompts of the policy, validation and test splits, wherever the prompts come from.

    Args:
        prompts: of each of ``policy``, ``validation`` and ``test``; a subclass may make them in :meth:`setup` instead.
        tokenizer: the policy's; it must have a padding token.
        effective_batch_size: prompts in one policy step.
        seed: the run's seed, which decides the order of the policy prompts.
        evaluation_batch_size: prompts in one evaluation batch; results do not depend on it.
        val_prompts: size of the fixed, seeded subset of the validation split; the whole split if None.
        test_prompts: the same of the test split.
        subset_seed: seed of those subsets.
    """

    def __init__(
        self,
        prompts: Mapping[str, list[Prompt]],
        tokenizer: PreTrainedTokenizerBase,
        *,
        effective_batch_size: int,
        seed: int,
        evaluation_batch_size: int = 64,
        val_prompts: int | None = None,
        test_prompts: int | None = None,
        subset_seed: int = 0,
    ):
        super().__init__()
        self.tokenizer = tokenizer
        self.effective_batch_size, self.seed = effective_batch_size, seed
        self.evaluation_batch_size, self.subset_seed = evaluation_batch_size, subset_seed
        self.subset = {"validation": val_prompts, "test": test_prompts}
        self.prompts: dict[str, list[Prompt]] = {}
        for name, all_prompts in prompts.items():
            chosen = self._subset(name, len(all_prompts))
            self.prompts[name] = all_prompts if chosen is None else [all_prompts[row] for row in chosen]

    def setup(self, stage: str | None = None) -> None:
        """Nothing is left to do where the prompts are given."""

    def _subset(self, name: str, total: int) -> np.ndarray | None:
        """Rows of a split that are used; None for all of them."""
        size = self.subset.get(name)
        if size is None or size >= total:
            return None
        return np.sort(np.random.Generator(np.random.PCG64(self.subset_seed)).permutation(total)[:size])

    def _loader(self, name: str, sampler: Sampler[BatchIndex] | list[BatchIndex]) -> DataLoader[PromptBatch]:
        dataset = _Batches(self.prompts[name], int(self.tokenizer.pad_token_id))  # type: ignore[arg-type]
        return DataLoader(dataset, sampler=sampler, batch_size=None, collate_fn=_as_it_is)

    def train_dataloader(self) -> DataLoader[PromptBatch]:
        return self._loader("policy", PolicyStepSampler(self.seed, self.effective_batch_size, len(self.prompts["policy"])))

    def _evaluation_loader(self, name: str) -> DataLoader[PromptBatch]:
        prompts, size = self.prompts[name], self.evaluation_batch_size
        # Prompts of equal length share a batch, so little of it is padding; results do not depend on the grouping.
        order = sorted(range(len(prompts)), key=lambda row: len(prompts[row].ids))
        return self._loader(name, [(0, order[i : i + size], order[i : i + size]) for i in range(0, len(order), size)])

    def val_dataloader(self) -> DataLoader[PromptBatch]:
        return self._evaluation_loader("validation")

    def test_dataloader(self) -> DataLoader[PromptBatch]:
        return self._evaluation_loader("test")

    def transfer_batch_to_device(self, batch: PromptBatch, device, dataloader_idx: int) -> PromptBatch:  # type: ignore[no-untyped-def]
        """The batch with its tensors on the device: Lightning moves only the types it knows."""
        return batch.to(device)


class ReviewDataModule(PromptDataModule):
    """Openings of the policy, validation and test splits, whatever the reviews are of.

    Args:
        splits: the four splits, from :func:`grade_lightning.data.corpus.make_splits`.
        tokenizer: the policy's; it must have a padding token.
        max_sentences: of a prompt (paper: 2).
        max_chars: of a prompt (paper: 200).
        max_tokens: of a prompt (paper: 32).
        clean_html: replace ``<br />`` marks by newlines first.
        options: of :class:`PromptDataModule`.
    """

    def __init__(
        self,
        splits: Splits,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_sentences: int = 2,
        max_chars: int = 200,
        max_tokens: int = 32,
        clean_html: bool = True,
        **options: Any,
    ):
        super().__init__({}, tokenizer, **options)
        self.splits = splits
        self.rule: dict[str, Any] = {"max_sentences": max_sentences, "max_chars": max_chars, "max_tokens": max_tokens, "clean": clean_html}

    def setup(self, stage: str | None = None) -> None:
        for name in ("policy", "validation", "test"):
            if name not in self.prompts:
                reviews: Reviews = getattr(self.splits, name)
                rows = self._subset(name, len(reviews))
                chosen = reviews if rows is None else reviews.take(rows)
                self.prompts[name] = make_prompts(chosen.texts, chosen.labels.tolist(), self.tokenizer, **self.rule)


class IMDBDataModule(ReviewDataModule):
    """Prompts of IMDB's reviews in the paper's four splits."""

    @classmethod
    def from_parquet(cls, folder: str | Path, tokenizer: PreTrainedTokenizerBase, **options: Any) -> IMDBDataModule:
        """Of a folder with ``train*.parquet`` and ``test*.parquet``: 5,000 reward, 10,000 policy and 2,000 validation rows, all test rows.

        Args:
            folder: with the Parquet files.
            tokenizer: of the policy.
            options: of :class:`ReviewDataModule`.
        """
        return cls(make_splits(ParquetSource(folder).load()), tokenizer, **options)
