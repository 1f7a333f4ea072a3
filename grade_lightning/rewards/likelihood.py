"""How likely another language model finds the completion after its prompt: fluency that the policy's own base does not vouch for."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from grade_lightning.chain.chunks import token_chunks
from grade_lightning.models.base import load_base, looks_local
from grade_lightning.models.ends import OutputHead
from grade_lightning.models.policy import positions_of
from grade_lightning.models.sharing import share_frozen
from grade_lightning.models.supported import backbone
from grade_lightning.rewards.base import Completions, Reward, RewardInputs

log = logging.getLogger(__name__)

BATCH = 32  # texts at once


class LikelihoodReward:
    """Mean log-probability of the completion's tokens given the prompt, in nats per token of that model's own vocabulary.

    Its negative's exponential is the perplexity.  A completion without text has the log-probability of an end of sequence there.

    Args:
        model: frozen.
        tokenizer: of the model.
        max_length: tokens that are read at most, and never more than the model has positions; of longer texts the beginning is left out.

    Attributes:
        truncated: texts that were cut so far.
    """

    truncated: int

    differentiable, soft, reads_states = False, False, False
    range: tuple[float | None, float | None] = (None, 0.0)
    vocabulary: int | None = None

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, max_length: int = 1024):
        self.model, self.tokenizer, self.truncated = model, tokenizer, 0
        self.max_length = min(max_length, getattr(model.config.get_text_config(), "max_position_embeddings", None) or max_length)
        self._end = int(tokenizer.eos_token_id)  # type: ignore[arg-type]
        self._begin = self._end if tokenizer.bos_token_id is None else int(tokenizer.bos_token_id)  # type: ignore[arg-type]

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
        """[b] of some texts, each read from its end back where it is too long."""
        encoded = self.tokenizer(
            [prompt + completion for prompt, completion in pairs], add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        rows, most = [], self.max_length - 1  # one is the token that stands before all
        for tokens, offsets, (prompt, _) in zip(encoded["input_ids"], encoded["offset_mapping"], pairs, strict=True):
            scored = [end > len(prompt) for _, end in offsets]  # a token belongs to where it ends
            listed = tokens if any(scored) else [*tokens, self._end]  # a completion without text says that it ends
            self._note_cut(len(listed) - most)
            rows.append(([self._begin, *listed[-most:]], (scored if any(scored) else [*scored, True])[-most:]))
        width, device = max(len(ids) for ids, _ in rows), self.model.device
        ids, mask = torch.zeros(len(rows), width, dtype=torch.long), torch.zeros(len(rows), width, dtype=torch.bool)
        own = torch.zeros(len(rows), width - 1, dtype=torch.bool)
        for row, (listed, mine) in enumerate(rows):
            ids[row, : len(listed)], mask[row, : len(listed)], own[row, : len(mine)] = torch.tensor(listed), True, torch.tensor(mine)
        inputs = {"input_ids": ids.to(device), "attention_mask": mask.long().to(device), "position_ids": positions_of(mask).to(device)}
        hidden = backbone(self.model)(**inputs).last_hidden_state[:, :-1]
        found = torch.zeros(own.shape)
        found[own] = self._logprobs(hidden[own.to(device)], ids[:, 1:][own].to(device)).cpu()
        return found.sum(dim=1) / own.sum(dim=1)

    def _note_cut(self, tokens: int) -> None:
        if tokens > 0 and not self.truncated:
            log.warning("a text is longer than the %d tokens that the likelihood's model reads: its beginning is left out", self.max_length)
        self.truncated += tokens > 0

    def _logprobs(self, states: Tensor, targets: Tensor) -> Tensor:
        """[N, d], [N] -> [N] log-probabilities, in chunks of tokens."""
        head = OutputHead(self.model)
        parts = [
            head.logits(states[rows]).float().log_softmax(dim=-1).gather(-1, targets[rows, None])[:, 0]
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
    share_frozen(model, inputs.policy.lm)
    return LikelihoodReward(model, base.tokenizer, max_length=max_length), {"model": Path(path).name if looks_local(path) else path}
