"""The first phase before training: what a run reads, and what that is called."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from grade_lightning.build import build
from grade_lightning.data.corpus import Corpus, Splits, fingerprint, make_splits
from grade_lightning.data.encoding import encode_splits
from grade_lightning.data.own import PromptSplits, load_prompt_splits
from grade_lightning.data.prompts import Prompt
from grade_lightning.models.adapters import Adapter, starting_adapter
from grade_lightning.models.base import BaseLM, check_model_folder, load_tokenizer
from grade_lightning.models.cache import files_fingerprint
from grade_lightning.rewards.identity import fingerprint_of_reward, fingerprints_of
from grade_lightning.settings import Settings
from grade_lightning.settings.data import DataSettings, PromptDataSettings
from grade_lightning.training.machine import check_machine, check_shape
from grade_lightning.training.strategy import resolve_accelerator

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Inputs:
    """What a run reads: reviews or prompts, and the files of the base LM.

    Attributes:
        settings: of the run. accelerator: ``cpu`` or ``cuda``.
    """

    settings: Settings
    accelerator: str

    @cached_property
    def corpus(self) -> Corpus:
        assert isinstance(self.settings.data, DataSettings), "a user's prompts are no reviews"
        return build(self.settings.data.source).load()

    @cached_property
    def splits(self) -> Splits | PromptSplits:
        """Of labelled reviews, or of a user's own prompts."""
        data = self.settings.data
        if isinstance(data, PromptDataSettings):
            return load_prompt_splits(
                data.path, prompt_column=data.prompt_column, validation_path=data.validation_path, test_path=data.test_path,
                hub_split=data.hub_split, hub_config=data.hub_config, revision=data.revision, validation_rows=data.validation_rows,
                test_rows=data.test_rows, shuffle_seed=data.shuffle_seed,
            )  # fmt: skip
        return make_splits(
            self.corpus, reward_rows=data.reward_rows, policy_rows=data.policy_rows, validation_rows=data.validation_rows,
            order=data.order, shuffle_seed=data.shuffle_seed, drop_duplicates=data.drop_duplicates,
        )  # fmt: skip

    @property
    def reviews(self) -> Splits | None:
        """The splits of labelled reviews; None, and nothing is read, where the prompts are a user's own."""
        if isinstance(self.settings.data, PromptDataSettings):
            return None
        assert isinstance(self.splits, Splits)
        return self.splits

    @cached_property
    def own_prompts(self) -> dict[str, list[Prompt]]:
        """A user's own prompts as tokens, by split; only the tokenizer of the model is loaded."""
        data, model = self.settings.data, self.settings.model
        assert isinstance(data, PromptDataSettings)
        assert model.path is not None
        assert isinstance(self.splits, PromptSplits)
        tokenizer = load_tokenizer(model.path, revision=model.revision, trust_remote_code=model.trust_remote_code)
        return encode_splits(self.splits, tokenizer, max_tokens=data.prompt.max_tokens, truncate=data.truncate)

    @property
    def model_folder(self) -> Path | None:
        """The local folder of the base LM; None where it comes from a hub or is made here."""
        path = self.settings.model.path
        folder = None if path is None else Path(path).expanduser()
        return folder if folder is not None and folder.exists() else None

    @cached_property
    def reward_fingerprint(self) -> str | None:
        """Of what the reward's settings name by a folder or an import path; None where they say all."""
        return fingerprint_of_reward(self.settings.reward.settings)

    @cached_property
    def judge_fingerprints(self) -> dict[str, str]:
        """The same of judges, by name; those whose settings say all are left out."""
        return fingerprints_of(self.settings.evaluation.judges)

    @cached_property
    def adapter(self) -> Adapter | None:
        """What the policy starts from; None = new adapters."""
        path = self.settings.run.adapter
        return None if path is None else starting_adapter(path, self.settings.model.lora)

    @cached_property
    def adapter_fingerprint(self) -> str | None:
        """Of the adapter that the policy starts from."""
        return None if self.adapter is None else self.adapter.fingerprint

    def named_by_folder(self) -> dict[str, Any]:
        """Fingerprints of what the settings name by a folder of this machine, whose contents their hash does not know."""
        found: dict[str, Any] = {}
        if self.model_folder is not None:
            found["model_fingerprint"] = files_fingerprint(self.model_folder)
        if self.reward_fingerprint is not None:
            found["reward_fingerprint"] = self.reward_fingerprint
        if self.judge_fingerprints:
            found["judge_fingerprints"] = self.judge_fingerprints
        if self.adapter_fingerprint is not None:
            found["adapter_fingerprint"] = self.adapter_fingerprint
        data = self.settings.data
        named = (getattr(data, key, None) for key in ("path", "validation_path", "test_path"))
        if any(path is not None and Path(path).expanduser().exists() for path in named):
            found["splits"] = self.splits.fingerprints
        return found

    def check(self, *, prompts: bool = True) -> None:
        """Raise ValueError where this machine, the named model and the settings do not go together; no weights are loaded.

        Args:
            prompts: read and check a user's own prompts as well.
        """
        check_machine(self.settings, self.accelerator)
        if self.model_folder is not None:
            check_model_folder(self.model_folder)
        check_shape(self.settings, self.accelerator, prompt_tokens=self._longest_prompt(prompts))
        _ = self.adapter, self.reward_fingerprint, self.judge_fingerprints  # a function or folder that is not there is refused now
        if prompts and isinstance(self.settings.data, PromptDataSettings):
            counts = {name: len(own) for name, own in self.own_prompts.items()}
            log.info("prompts: %s", ", ".join(f"{count:,} {name}" for name, count in counts.items()))

    def _longest_prompt(self, read: bool) -> int | None:
        """Tokens of the longest prompt of a user's own; None of reviews, which are cut."""
        if not isinstance(self.settings.data, PromptDataSettings):
            return None
        return max(len(prompt.ids) for split in self.own_prompts.values() for prompt in split) if read else 1

    def fingerprints(self, base: BaseLM) -> dict[str, Any]:
        """Of everything that was read."""
        reward: dict[str, Any] = {} if self.reward_fingerprint is None else {"reward": self.reward_fingerprint}
        reward |= {"judges": self.judge_fingerprints} if self.judge_fingerprints else {}
        reward |= {"adapter": self.adapter_fingerprint} if self.adapter_fingerprint else {}
        if self.reviews is None:
            return {**reward, "base LM": base.fingerprint, "prompts": self.splits.fingerprints}
        reviews = {**self.reviews.fingerprints, "unused": fingerprint(self.reviews.unused)}
        return {**reward, "base LM": base.fingerprint, "reviews": reviews}


def inputs(settings: Settings) -> Inputs:
    """The first phase.  Nothing is read before it is asked for."""
    return Inputs(settings, resolve_accelerator(settings.hardware.accelerator))
