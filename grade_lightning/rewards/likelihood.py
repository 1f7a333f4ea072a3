"""How likely another language model finds the completion after its prompt: fluency that the policy's own base does not vouch for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grade_lightning.chain.chunks import token_chunks
from grade_lightning.models.base import load_base, looks_local
from grade_lightning.models.policy import positions_of
from grade_lightning.models.supported import backbone
from grade_lightning.rewards.base import Completions, Reward, RewardInputs

BATCH = 32  # texts at once


class LikelihoodReward:
    """Mean log-probability of the completion's tokens given the prompt, in nats per token of that model's own vocabulary.

    Its negative's exponential is the perplexity.  A completion without text has 0.

    Args:
        model: frozen.
        tokenizer: of the model.
        max_length: tokens that are read at most; what comes later is left out.
    """

    differentiable, soft, reads_states = False, False, False
    range: tuple[float | None, float | None] = (None, 0.0)
    vocabulary: int | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 1024):
        self.model, self.tokenizer, self.max_length = model, tokenizer, max_length

    def scoped(self, scope: str) -> Reward | None:
        """None: it is always of the completion given the prompt."""
        return None

    @torch.no_grad()
    def score(self, completions: Completions) -> Tensor:
        """[B] nats per token."""
        pairs = list(zip(completions.prompt_texts, completions.texts, strict=True))
        parts = [self._of(pairs[start : start + BATCH]) for start in range(0, len(pairs), BATCH)]
        return torch.cat(parts).to(completions.ids.device)

    def _of(self, pairs: list[tuple[str, str]]) -> Tensor:
        encoded = self.tokenizer(
            [prompt + completion for prompt, completion in pairs], padding=True, truncation=True, max_length=self.max_length,
            return_tensors="pt", return_offsets_mapping=True, padding_side="right", add_special_tokens=False,
        )  # fmt: skip
        first = self.tokenizer.bos_token_id if self.tokenizer.bos_token_id is not None else self.tokenizer.eos_token_id
        ids, mask = encoded["input_ids"], encoded["attention_mask"].bool()
        begin = torch.full((len(ids), 1), int(first))  # type: ignore[arg-type]
        ids, mask = torch.cat([begin, ids], dim=1), torch.cat([torch.ones_like(begin, dtype=torch.bool), mask], dim=1)
        device = self.model.device
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device), "position_ids": positions_of(mask).to(device)}
        hidden = backbone(self.model)(**inputs).last_hidden_state[:, :-1]
        starts = torch.tensor([len(prompt) for prompt, _ in pairs])
        own = mask[:, 1:] & (encoded["offset_mapping"][:, :, 1] > starts[:, None])  # a token belongs to where it ends
        rows, places = own.nonzero(as_tuple=True)
        found = torch.zeros(own.shape)
        values = self._logprobs(hidden[rows.to(device), places.to(device)], ids[rows, places + 1].to(device))
        found[rows, places] = values.cpu()
        return found.sum(dim=1) / own.sum(dim=1).clamp_min(1)

    def _logprobs(self, states: Tensor, targets: Tensor) -> Tensor:
        """[N, d], [N] -> [N] log-probabilities, in chunks of tokens."""
        head = self.model.get_output_embeddings()
        parts = [
            head(states[rows]).float().log_softmax(dim=-1).gather(-1, targets[rows, None])[:, 0]
            for rows in token_chunks(states, self.model.config.get_text_config().vocab_size)
        ]
        return torch.cat(parts) if parts else torch.zeros(0)


def likelihood(
    inputs: RewardInputs, *, path: str, max_length: int, revision: str | None, trust_remote_code: bool
) -> tuple[LikelihoodReward, dict[str, Any]]:
    """The reward group's ``likelihood``, and its report.

    Args:
        inputs: lends device and precision.
        path: a folder or a hub id of a causal language model.
        max_length: see :class:`LikelihoodReward`.
        revision: of the hub repository.
        trust_remote_code: run code that the repository ships.

    Raises:
        ValueError: there is no such model.
    """
    base = load_base(path, precision=inputs.precision, revision=revision, trust_remote_code=trust_remote_code)
    model = base.model.to(inputs.policy.device)  # type: ignore[arg-type]
    return LikelihoodReward(model, base.tokenizer, max_length=max_length), {"model": Path(path).name if looks_local(path) else path}
