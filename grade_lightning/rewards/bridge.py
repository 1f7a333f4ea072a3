"""The gradient of a reward that reads another vocabulary, brought back to the policy's candidates by the text that tokens spell.

Both sides spell the same bytes.  They are grouped where tokens of both end (:func:`grade_lightning.rewards.spelling.align`).  With G_m the
gradient of the score with respect to the embedding of reward token m, candidate v in place of the policy's token y_t of group j changes
the score, to first order, by

    g[t, v] = < sum over m in group j of G_m,  phi(v) - phi(y_t) >

phi(v) being the mean embedding of the reward tokens that spell v.  Where both vocabularies are the same, every group is one token, phi(v)
is the embedding of v, and this is the gradient of the score with respect to the weight of v.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from grade_lightning.rewards.spelling import Group, token_bytes


class VocabularyBridge:
    """phi, for every token of the policy's vocabulary.

    A token that continues a word may be spelled by other reward tokens than one that begins a word (WordPiece writes ``##ing``): there are
    two tables.

    Args:
        policy: tokenizer of the policy; its tokens must say what they spell.
        reward: tokenizer of the reward.
        embeddings: [V_reward, d] of the reward.

    Attributes:
        spelled: what each policy token spells.
        reward_spelled: what each reward token spells; None where a token alone does not say.

    Raises:
        ValueError: the policy's tokens do not say what they spell.
    """

    spelled: list[bytes]
    reward_spelled: list[bytes] | None

    def __init__(self, policy: PreTrainedTokenizerBase, reward: PreTrainedTokenizerBase, embeddings: Tensor):
        spelled = token_bytes(policy)
        if spelled is None:
            raise ValueError(
                f"the policy's tokenizer ({type(policy).__name__}) does not say what a token spells by itself: a reward with another "
                "vocabulary needs a byte-level or SentencePiece vocabulary on the policy's side"
            )
        self.spelled, self.reward_spelled = spelled, token_bytes(reward)
        begins, continues = _pieces(spelled, reward, self.reward_spelled)
        self._begins = _mean_embeddings(begins, embeddings)
        self._continues = self._begins if continues is None else _mean_embeddings(continues, embeddings)

    def gradient(self, pulls: Tensor, continues: Tensor, candidates: Tensor, chosen: Tensor) -> Tensor:
        """g[t, v] for the candidates.

        Args:
            pulls: [B, T, d] sum of the gradients of the group's reward tokens, 0 where a position has none.
            continues: [B, T] bool, whether the position continues a word.
            candidates: [B, T, k] policy tokens.
            chosen: [B, T] the policy's tokens y_t.

        Returns:
            [B, T, k].
        """
        used, places = torch.unique(torch.cat([candidates, chosen.unsqueeze(-1)], dim=-1), return_inverse=True)
        found = []
        for table in (self._begins, self._continues):
            along = pulls.to(table.dtype) @ table[used].T  # [B, T, used]: no [B, T, k, d] is made
            own = along.gather(-1, places)
            found.append(own[..., :-1] - own[..., -1:])
        return torch.where(continues.unsqueeze(-1), found[1], found[0])


def pull(gradients: Tensor, groups: Sequence[Group], tokens: int) -> Tensor:
    """[M, d] gradients of reward tokens -> [T, d]: each position of a group gets the sum over the group's reward tokens."""
    found = gradients.new_zeros(tokens, gradients.shape[1])
    for own, other in groups:
        if len(own) and len(other):
            found[own.start : own.stop] = gradients[other.start : other.stop].sum(dim=0)
    return found


def _pieces(
    spelled: Sequence[bytes], reward: PreTrainedTokenizerBase, theirs: Sequence[bytes] | None
) -> tuple[list[list[int]], list[list[int]] | None]:
    """Reward tokens that spell each policy token where a word begins, and where one goes on (None = the same)."""
    known = {} if theirs is None else {piece: index for index, piece in reversed(list(enumerate(theirs))) if piece}
    texts = [piece.decode("utf-8", "replace") for piece in spelled]
    encoded = reward(texts, add_special_tokens=False)["input_ids"]
    begins = [[known[piece]] if piece in known else list(ids) if piece else [] for piece, ids in zip(spelled, encoded, strict=True)]
    prefix = _continuation(reward)
    if prefix is None:
        return begins, None
    vocabulary = reward.get_vocab()
    continues = []
    for text, ids in zip(texts, begins, strict=True):
        whole = vocabulary.get(f"{prefix}{_normalised(reward, text)}")
        first = vocabulary.get(f"{prefix}{reward.convert_ids_to_tokens(ids[0])}") if ids else None
        goes_on = bool(text) and text[0].isalnum()
        continues.append(ids if not goes_on else [whole] if whole is not None else [first, *ids[1:]] if first is not None else ids)
    return begins, continues


def _continuation(tokenizer: PreTrainedTokenizerBase) -> str | None:
    """What marks a token that continues a word; None where nothing does."""
    model = json.loads(tokenizer.backend_tokenizer.to_str())["model"]  # type: ignore[attr-defined]
    return model.get("continuing_subword_prefix") or None if model.get("type") == "WordPiece" else None


def _normalised(tokenizer: PreTrainedTokenizerBase, text: str) -> str:
    normalizer = tokenizer.backend_tokenizer.normalizer  # type: ignore[attr-defined]
    return normalizer.normalize_str(text) if normalizer is not None else text


def _mean_embeddings(pieces: Sequence[Sequence[int]], embeddings: Tensor) -> Tensor:
    """[V, d] mean of the rows of each list; 0 for an empty one."""
    flat = torch.tensor([index for ids in pieces for index in ids], dtype=torch.long, device=embeddings.device)
    starts = torch.tensor([0, *[len(ids) for ids in pieces][:-1]], device=embeddings.device).cumsum(0)
    return F.embedding_bag(flat, embeddings.detach(), starts, mode="mean")
