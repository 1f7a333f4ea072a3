"""Any sequence-classification model as a reward, differentiable whatever its vocabulary."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from grade_lightning.models.base import DTYPES, check_weights, looks_local
from grade_lightning.models.ends import embedding_scale
from grade_lightning.models.sharing import share_frozen
from grade_lightning.rewards.base import Completions, RewardInputs, check_scope, linearised
from grade_lightning.rewards.bridge import VocabularyBridge, pull
from grade_lightning.rewards.spelling import Group, align, readable, within

log = logging.getLogger(__name__)

UNBOUNDED = 1_000_000  # tokenizers without a longest length say a number above this


@dataclass(frozen=True)
class _Text:
    """One text as the model reads it.

    Attributes:
        text: with the template around it.
        start: the byte at which the completion begins.
        length: of the completion, in bytes.
        ends: the byte of the completion at which each of the policy's tokens ends.
    """

    text: str
    start: int
    length: int
    ends: list[float]


class SequenceClassifierReward(nn.Module):
    """What a classifier gives to the text of prompt and completion; its gradient is straight-through to the recorded candidates.

    The value is exactly the model's of the decoded text, in its own tokenization.  For the gradient see
    :mod:`grade_lightning.rewards.bridge`.

    Args:
        model: frozen.
        tokenizer: of the model.
        policy_tokenizer: of the policy.
        label: place of the logit.
        output: ``probability``, ``margin`` or ``raw``.
        template: holds ``{completion}`` and perhaps ``{prompt}``.
        max_length: tokens the model reads at most.
        scope: ``full``, or ``completion`` to leave the prompt out.
        batch_size: texts at once.

    Attributes:
        truncated: texts that were cut so far.
    """

    differentiable, soft, vocabulary, reads_states = True, False, None, False
    truncated: int

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        policy_tokenizer: PreTrainedTokenizerBase,
        *,
        label: int,
        output: str = "probability",
        template: str = "{prompt}{completion}",
        max_length: int = 512,
        scope: str = "full",
        batch_size: int = 64,
    ):
        super().__init__()
        check_scope(scope)
        self.model, self.tokenizer, self.scope = model.requires_grad_(False).eval(), tokenizer, scope
        self.label, self.output, self.template = label, output, template
        self.max_length, self.batch_size, self.truncated = max_length, batch_size, 0
        self.range: tuple[float | None, float | None] = (0.0, 1.0) if output == "probability" else (None, None)
        table, scale = self._embedding.weight.detach(), embedding_scale(self._embedding)  # type: ignore[operator]
        self._bridge = VocabularyBridge(policy_tokenizer, tokenizer, table if scale is None else table * scale)

    @property
    def _embedding(self) -> nn.Module:
        return self.model.get_input_embeddings()

    def scoped(self, scope: str) -> SequenceClassifierReward:
        """The same of another scope; neither weights nor tables are copied, so that each batch of an evaluation may ask for one."""
        check_scope(scope)
        if scope == self.scope:
            return self
        other = copy.copy(self)
        other.scope = scope
        return other

    def score(self, completions: Completions) -> Tensor:
        """[B] what the model gives the texts, with a gradient where there are relaxed tokens that require one."""
        texts = self._texts(completions)
        parts = [texts[start : start + self.batch_size] for start in range(0, len(texts), self.batch_size)]
        soft = completions.soft
        if soft is None or not (soft.weights.requires_grad and torch.is_grad_enabled()):
            with torch.no_grad():
                return torch.cat([self._value(self._encode(part)) for part in parts])
        found = [self._value_and_pulls(part, soft.weights.shape[1]) for part in parts]
        values, pulls, continues = (torch.cat(column) for column in zip(*found, strict=True))
        gradient = self._bridge.gradient(pulls, continues, soft.indices, soft.token_ids)
        return linearised(values, soft.weights, gradient.to(soft.weights.dtype))

    # -- text ----------------------------------------------------------------------------------------------------------

    def _texts(self, completions: Completions) -> list[_Text]:
        """Each text by its template, and what the completion's tokens spell."""
        before, after = self.template.split("{completion}")
        found = []
        for prompt, completion, ids in zip(completions.prompt_texts, completions.texts, completions.token_ids, strict=True):
            spelled, ends = readable([self._bridge.spelled[index] for index in ids])
            if spelled != completion:
                raise ValueError(
                    f"the policy's tokenizer decodes to another text than its tokens spell ({completion[:80]!r}): set its "
                    "clean_up_tokenization_spaces to false"
                )
            shown = "" if self.scope == "completion" else prompt
            head, tail = before.replace("{prompt}", shown), after.replace("{prompt}", shown)
            found.append(_Text(f"{head}{completion}{tail}", len(head.encode()), len(completion.encode()), ends))
        return found

    def _encode(self, texts: list[_Text]) -> Any:
        encoded = self.tokenizer(
            [text.text for text in texts], padding=True, truncation=True, max_length=self.max_length, return_tensors="pt",
            return_offsets_mapping=True, return_special_tokens_mask=True, padding_side="right",  # absolute positions count from the left
        )  # fmt: skip
        cut = sum(
            len(ids) > self.max_length for ids in self.tokenizer([t.text for t in texts], truncation=False, verbose=False)["input_ids"]
        ) if bool((encoded["attention_mask"].sum(dim=1) == self.max_length).any()) else 0  # fmt: skip
        if cut and not self.truncated:
            log.warning("%d of %d texts are longer than the reward's %d tokens and are cut at their end", cut, len(texts), self.max_length)
        self.truncated += cut
        return encoded

    # -- value and gradient --------------------------------------------------------------------------------------------

    def _value(self, encoded: Any) -> Tensor:
        """[B] from the model's logits, at least in fp32."""
        inputs = {name: encoded[name].to(self.model.device) for name in self.tokenizer.model_input_names if name in encoded}
        logits = self.model(**inputs).logits
        logits = logits if logits.dtype == torch.float64 else logits.float()
        own = logits[:, self.label]
        if self.output == "raw":
            return own
        if logits.shape[1] == 1:
            return torch.sigmoid(own) if self.output == "probability" else own
        others = torch.cat([logits[:, : self.label], logits[:, self.label + 1 :]], dim=1)
        margin = own - others.logsumexp(dim=1)
        return torch.sigmoid(margin) if self.output == "probability" else margin

    def _value_and_pulls(self, texts: list[_Text], tokens: int) -> tuple[Tensor, Tensor, Tensor]:
        """Values [B], the sum of reward-token gradients at each policy position [B, T, d], and which positions continue a word [B, T]."""
        encoded, captured = self._encode(texts), []

        def leaf(module: nn.Module, arguments: Any, output: Tensor) -> Tensor:
            captured.append(output.detach().requires_grad_())
            return captured[-1]

        hook = self._embedding.register_forward_hook(leaf)
        try:
            with torch.enable_grad():
                values = self._value(encoded)
        finally:
            hook.remove()
        (gradients,) = torch.autograd.grad(values.sum(), captured[0])
        pulls = gradients.new_zeros(len(texts), tokens, gradients.shape[-1])
        continues = torch.zeros(len(texts), tokens, dtype=torch.bool, device=gradients.device)
        for row, text in enumerate(texts):
            real, groups = self._groups(text, encoded, row)
            own = len(text.ends)
            pulls[row, :own] = pull(gradients[row][real.to(gradients.device)], groups, own)
            continues[row, :own] = torch.tensor(_continue(text), device=gradients.device)
        return values.detach(), pulls, continues

    def _groups(self, text: _Text, encoded: Any, row: int) -> tuple[Tensor, list[Group]]:
        """Which of a row's tokens are the text's, and how they go with the policy's.  -> [M] bool, groups."""
        real = ~encoded["special_tokens_mask"][row].bool() & encoded["attention_mask"][row].bool()
        ends = self._ends(text, encoded["input_ids"][row][real].tolist(), encoded["offset_mapping"][row][real].tolist())
        return real, align(text.ends, ends)

    def groups(self, completions: Completions) -> list[list[Group]]:
        """For each completion, the smallest groups of the policy's tokens and the model's that spell the same bytes."""
        texts = self._texts(completions)
        encoded = self._encode(texts)
        return [self._groups(text, encoded, row)[1] for row, text in enumerate(texts)]

    def _ends(self, text: _Text, ids: list[int], offsets: list[list[int]]) -> list[float]:
        """Where in the completion each reward token ends: see :func:`grade_lightning.rewards.spelling.within`."""
        whole = text.text.encode()
        spelled = self._bridge.reward_spelled
        own = None if spelled is None else [spelled[index] for index in ids]
        if own is not None and whole.startswith(b"".join(own)):
            ends = list(accumulate(map(len, own)))
        else:  # offsets are of characters; a space that no token spells belongs to the token behind it
            at = [0, *accumulate(len(character.encode()) for character in text.text)]
            ends = [at[end] for _, end in offsets]
        return within(ends, text.start, text.length, whole=len(ids) + 2 < self.max_length)


def _continue(text: _Text) -> list[bool]:
    """Whether each completion token stands behind a letter or digit."""
    whole = text.text.encode()
    begins = [text.start, *(text.start + int(end) for end in text.ends)][: len(text.ends)]
    return [whole[max(0, place - 4) : place].decode("utf-8", "ignore")[-1:].isalnum() for place in begins]


def sequence_classifier(
    inputs: RewardInputs, *, path: str, label: int | str | None, output: str, template: str, max_length: int | None, scope: str,
    batch_size: int, revision: str | None, trust_remote_code: bool,
) -> tuple[SequenceClassifierReward, dict[str, Any]]:  # fmt: skip
    """The reward group's ``sequence_classifier``, and its report.

    Args:
        inputs: lends the policy's tokenizer, device and precision.
        path: a folder or a hub id.
        label: name or place of the rewarded label; None = the only one, or of two the second.
        output: see :class:`SequenceClassifierReward`.
        template: see there.
        max_length: see there; None = as many tokens as the model can read.
        scope: see there.
        batch_size: see there.
        revision: of the hub repository.
        trust_remote_code: run code that the repository ships.

    Raises:
        ValueError: there is no such model or label.
    """
    if looks_local(path):
        check_classifier_folder(path)
    options = {"revision": revision, "trust_remote_code": trust_remote_code}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, **options)
        model = AutoModelForSequenceClassification.from_pretrained(path, dtype=DTYPES[inputs.precision], use_safetensors=True, **options)
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ValueError(f"the reward model {path} could not be loaded: {reason}") from error
    if not getattr(tokenizer, "is_fast", False):
        raise ValueError(f"the tokenizer of {path} has no tokenizer.json: save a fast one, which says where its tokens stand in a text")
    place = label_place(model.config.id2label, label, path)
    model.requires_grad_(False).to(inputs.policy.device)
    share_frozen(model, inputs.policy.lm)
    longest = [getattr(model.config, "max_position_embeddings", UNBOUNDED) or UNBOUNDED, tokenizer.model_max_length]
    most = min(length for length in (max_length or UNBOUNDED, *longest))
    reward = SequenceClassifierReward(
        model, tokenizer, inputs.policy.tokenizer, label=place, output=output, template=template,
        max_length=most if most < UNBOUNDED else 512, scope=scope, batch_size=batch_size,
    )  # fmt: skip
    return reward, {"model": Path(path).name if looks_local(path) else path, "label": str(model.config.id2label[place]), "output": output}


def check_classifier_folder(path: str) -> None:
    """Raise ValueError for a folder that holds no classifier with safetensors weights and a tokenizer."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        raise ValueError(f"reward.path={path} is not a folder: give the folder of a sequence-classification model")
    check_weights(folder)
    if not (folder / "tokenizer.json").exists():
        raise ValueError(f"{folder} has no tokenizer.json: save the tokenizer beside the model with tokenizer.save_pretrained")


def label_place(names: dict[int, str], label: int | str | None, path: str) -> int:
    """Place of the rewarded label.

    Args:
        names: of the model's labels by place.
        label: name or place; None = the only one, or of two the second.
        path: of the model, for messages.

    Raises:
        ValueError: no such label, or none chosen where there are several.
    """
    listed = ", ".join(f"{place} {name}" for place, name in names.items())
    if label is None:
        if len(names) > 2:
            raise ValueError(f"{path} has {len(names)} labels ({listed}): choose one with reward.label")
        return len(names) - 1
    for place, name in names.items():
        if label in (place, name) or str(label) == str(place):
            return int(place)
    raise ValueError(f"reward.label={label} is no label of {path}: it has {listed}")
