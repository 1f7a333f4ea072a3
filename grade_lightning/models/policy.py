"""The policy: one frozen base language model with LoRA; with its adapters disabled it is the reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from peft import LoraConfig, PeftModel, get_peft_model, set_peft_model_state_dict
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import Cache, DynamicCache

from grade_lightning.distributed import any_process, world
from grade_lightning.estimators import SoftTokens
from grade_lightning.models.adapters import name_base
from grade_lightning.models.attention import avoid_faulty_attention
from grade_lightning.models.bags import bags
from grade_lightning.models.base import BaseLM
from grade_lightning.models.checkpointing import CheckpointedLayer, checkpointed
from grade_lightning.models.dropout import KeyedDropout
from grade_lightning.models.ends import OutputHead, embedding_scale
from grade_lightning.models.layout import suit_few_tokens
from grade_lightning.models.lora_targets import lora_targets
from grade_lightning.models.merged_lora import MergedLora, adapted_weights, added
from grade_lightning.models.norms import FusedNorm
from grade_lightning.models.sharding import share_out
from grade_lightning.models.supported import backbone

FEW_TOKENS = 4096  # of a batch: at 4 billion weights an H200 then computes about as long as it waits to be told what


def positions_of(mask: Tensor) -> Tensor:
    """Explicit position ids of a padded batch: real tokens count from 0, whatever padding precedes them.  [B, L] -> [B, L]."""
    return (mask.long().cumsum(dim=-1) - 1).clamp_min(0)


class Policy(nn.Module):
    """Base LM + LoRA, seen as embeddings in, hidden states out.

    Adapters sit on the attention projections (paper: r 16, alpha 32).  The module stays in eval mode: the only dropout is
    :class:`KeyedDropout` on the LoRA inputs, active inside :meth:`dropout` alone.

    Args:
        base: the frozen base; shared with the reference and the reward model, never copied.
        r: rank of the adapters.
        alpha: scale of the adapters, which add alpha / r times their product.
        dropout: probability that an input of an adapter is dropped, inside :meth:`dropout`.
        target_modules: layers that get adapters; by architecture if None.
        seed: seed of the adapters' initial weights.
        checkpointing: keep only each layer's input for the backward pass and compute the layer again there: less memory, the same
            gradient.
    """

    def __init__(
        self,
        base: BaseLM,
        *,
        r: int = 16,
        alpha: int = 32,
        dropout: float = 0.0,
        target_modules: Sequence[str] | None = None,
        seed: int = 0,
        checkpointing: bool = False,
    ):
        super().__init__()
        avoid_faulty_attention()
        targets = lora_targets(base.model, base.name, target_modules)
        config = LoraConfig(
            r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules=targets, task_type="CAUSAL_LM",
            fan_in_fan_out=base.model.config.model_type == "gpt2",
        )  # fmt: skip
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.peft: PeftModel = get_peft_model(base.model, config)  # type: ignore[assignment]
        self.tokenizer, self.name = base.tokenizer, base.name
        self._hub = (base.hub, base.fingerprint) if base.hub else (None, None)
        self.head = OutputHead(base.model)
        self.vocab_size: int = base.model.get_output_embeddings().weight.shape[0]
        self.pad_id = int(base.tokenizer.pad_token_id)  # type: ignore[arg-type]
        self.eos_ids = _eos_ids(base)
        self._dropouts = KeyedDropout.install(self.peft, dropout)
        MergedLora.install(self.peft)
        FusedNorm.install(self.lm)
        self.checkpointing, self._is_reference = checkpointing, False
        self._layers = CheckpointedLayer.install(self.lm) if checkpointing else []
        if checkpointing and not self._layers:
            raise ValueError(f"{base.name} has no layers that transformers can checkpoint: set hardware.activation_checkpointing=false")
        self.sharded = False  # each process holds a part of the frozen layers: see :meth:`shard`
        suit_few_tokens(self.lm)  # once and here: nothing that is entered and left again may leave weights laid out differently
        self.eval()

    def train(self, mode: bool = True) -> Policy:
        """Do nothing: the policy stays in eval mode, as the class docstring says."""
        return super().train(False)

    @property
    def lm(self) -> nn.Module:
        """The transformers model inside, with LoRA layers in place."""
        return self.peft.get_base_model()

    @property
    def embedding(self) -> Tensor:
        """[V, d] table of input embeddings E; what is fed are its rows, scaled where the model scales them: see :meth:`embed`."""
        return self.lm.get_input_embeddings().weight  # type: ignore[operator]

    @contextmanager
    def merged(self, *, in_place: bool = True) -> Iterator[None]:
        """Adapters added into the weights for passes without gradients: a third of the matrix products of small models are LoRA's.

        Afterwards the very same frozen weights are back.  In 16 bits, where adding would round the adapters away, they stay apart and are
        themselves rounded.  Does nothing for the reference or under dropout, which are other models, nor where no process has the weights.

        Args:
            in_place: False = weights keep their addresses, as a captured graph needs: only 16-bit adapters change.
        """
        weights = adapted_weights(self.peft)
        way: Callable[[PeftModel], AbstractContextManager[Any]] = nullcontext
        if self._is_reference or self.drops or self.sharded:
            pass
        elif any(weight.dtype in (torch.bfloat16, torch.float16) for weight in weights):
            way = MergedLora.rounded
        elif in_place and all(weight.element_size() >= 4 for weight in weights):
            way = added
        with way(self.peft):
            yield

    def shard(self) -> None:
        """Let each process keep its part of the frozen layers alone; does nothing in one process, nor the second time.

        From then on every pass through the layers, forward or backward, is one that all processes make together.
        """
        if not self.sharded and world()[1] > 1:
            share_out(self.lm, backbone(self.lm))  # type: ignore[arg-type]
            self.sharded = True

    def goes_on(self, wanted: bool) -> bool:
        """Whether a loop makes another pass that this process wants or not: where weights are shared out, if any process wants it."""
        return any_process(wanted) if self.sharded else wanted

    @property
    def drops(self) -> bool:
        """Whether the caller is inside :meth:`dropout`."""
        return any(layer.active for layer in self._dropouts)

    @property
    def is_reference(self) -> bool:
        """Whether the caller is inside :meth:`reference`."""
        return self._is_reference

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    def trainable(self) -> dict[str, nn.Parameter]:
        """The LoRA weights by name."""
        return {name: weight for name, weight in self.peft.named_parameters() if weight.requires_grad}

    def embed(self, ids: Tensor) -> Tensor:
        """[B, T] ids -> [B, T, d]."""
        return self._scaled(F.embedding(ids, self.embedding))

    def embed_soft(self, tokens: SoftTokens, mask: Tensor) -> Tensor:
        """Soft embeddings sum_k w_k E[index_k] (eq. 11, 14); the padding token's embedding where the mask is False.

        No [B, T, k, d] tensor is built.  [B, T, k] -> [B, T, d].
        """
        k = tokens.indices.shape[-1]
        weights = tokens.weights.to(self.embedding.dtype).reshape(-1, k)
        soft = bags(tokens.indices.reshape(-1, k), self.embedding, weights)
        return self._scaled(torch.where(mask.unsqueeze(-1), soft.view(*mask.shape, -1), self.embedding[self.pad_id]))

    def _scaled(self, embeds: Tensor) -> Tensor:
        scale = embedding_scale(self.lm.get_input_embeddings())  # type: ignore[operator]
        return embeds if scale is None else embeds * scale

    def hidden(self, embeds: Tensor, mask: Tensor, *, cache: Cache | None = None, positions: Tensor | None = None) -> Tensor:
        """Last hidden states (after the final norm) at the given positions.

        Args:
            embeds: [B, L, d]; the last L positions of the sequence.
            mask: [B, S] over the whole sequence so far, S >= L, True = real token; or [B, 1, L, S] which keys each query sees.
            cache: keys and values of the first S - L positions; extended in place.
            positions: [B, L] position ids; counted from a [B, S] mask if None.

        Returns:
            [B, L, d].
        """
        positions = positions_of(mask)[:, -embeds.shape[1] :] if positions is None else positions
        if not self._is_reference:  # which has no dropout; a layer that is computed again must find its own positions
            KeyedDropout.set_positions(self._dropouts, positions)
        with checkpointed(self._layers if cache is None else []):  # what is computed again would extend the cache twice
            output = backbone(self.lm)(  # type: ignore[arg-type]
                inputs_embeds=embeds, attention_mask=self._attention_mask(mask, embeds.dtype), position_ids=positions,
                past_key_values=cache, use_cache=cache is not None,
            )  # fmt: skip
        return output.last_hidden_state

    def _attention_mask(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """The mask as transformers reads it: attention that transformers writes out itself adds a mask of four dimensions, and CUDA's
        kernels make such a one from one of bools again in each layer."""
        if mask.dim() == 2:
            return mask.long()
        adds = self.lm.config._attn_implementation == "eager" or mask.is_cuda  # type: ignore[union-attr]
        return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min) if adds else mask

    def states(self, prompt_ids: Tensor, prompt_mask: Tensor, embeds: Tensor, mask: Tensor, *, group: int = 1) -> tuple[Tensor, Tensor]:
        """Last hidden states of prompts and of the completions after them.

        Two passes, the second over the prompts' keys and values: a gradient with respect to ``embeds`` alone then never visits
        the prompts.  One pass where :meth:`_reads_at_once` says so.

        Args:
            prompt_ids: [B, P].
            prompt_mask: [B, P], True = real token.
            embeds: [B, T, d] of the completions; T may be 0.
            mask: [B, T].
            group: so many rows in a row have the same prompt, which is read once.

        Returns [B, P, d] and [B, T, d].
        """
        whole = torch.cat([prompt_mask, mask], dim=1)
        if self._reads_at_once(whole.numel()):
            hidden = self.hidden(torch.cat([self.embed(prompt_ids), embeds], dim=1), whole)
            return hidden[:, : prompt_ids.shape[1]], hidden[:, prompt_ids.shape[1] :]
        cache, group = DynamicCache(), 1 if self.drops else group  # each row has a dropout of its own
        before = self.hidden(self.embed(prompt_ids[::group]), prompt_mask[::group], cache=cache)
        if group > 1:
            cache.batch_repeat_interleave(group)
            before = before.repeat_interleave(group, dim=0)
        return before, self.hidden(embeds, whole, cache=cache) if embeds.shape[1] else embeds

    def _reads_at_once(self, tokens: int) -> bool:
        """Whether :meth:`states` reads prompts and completions in one pass.

        It must with activation checkpointing, which cannot extend a cache twice, and where weights are shared out: they come back for a
        backward pass that enters a layer by its output, no key or value.  The policy does, too, on a device that few tokens cannot fill,
        which waits for operations to be started: they are half as many then."""
        starved = self.device.type != "cpu" and tokens <= FEW_TOKENS and not self._is_reference
        return self.checkpointing or self.sharded or starved

    def logits(self, hidden: Tensor) -> Tensor:
        """[..., d] hidden states -> [..., V] logits, in fp32 (fp64 stays fp64)."""
        return self.head.logits(hidden)

    @contextmanager
    def reference(self) -> Iterator[None]:
        """Adapters disabled: the reference, and the reward model's backbone.

        Gradients that flow through the reference must be taken inside this context: with activation checkpointing the
        backward pass runs the layers again and would otherwise find the adapters on.
        """
        before, self._is_reference = self._is_reference, True
        try:
            with self.peft.disable_adapter():
                yield
        finally:
            self._is_reference = before

    @contextmanager
    def dropout(self, seed: int, step: int, rows: Tensor) -> Iterator[None]:
        """LoRA dropout with masks keyed by (seed, step, row): the same for any split of the batch."""
        KeyedDropout.activate(self._dropouts, seed, step, rows.to(self.device))
        try:
            yield
        finally:
            KeyedDropout.deactivate(self._dropouts)

    def save_adapter(self, folder: Path) -> None:
        """Write ``adapter_model.safetensors`` and ``adapter_config.json`` in PEFT's layout; the base is named by its hub id, and not at
        all where it is a folder, which another machine does not have."""
        self.peft.save_pretrained(str(folder), safe_serialization=True, save_embedding_layers=False)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's form to fill in, which names the folder
        name_base(folder, *self._hub)

    def load_adapter(self, file: Path) -> None:
        """Take the adapter's weights from an ``adapter_model.safetensors``.

        Raises:
            ValueError: it is the adapter of another model.
        """
        try:
            result: Any = set_peft_model_state_dict(self.peft, load_file(str(file)))
        except RuntimeError as error:  # shapes
            raise ValueError(f"{file} is an adapter of another model: {error}") from error
        missing = [name for name in result.missing_keys if "lora_" in name]
        for problem, names in (("it lacks", missing), ("there is no layer for", result.unexpected_keys)):
            if names:
                raise ValueError(f"{file} is an adapter of another model: {problem} {names[0]} and {len(names) - 1} more")


def _eos_ids(base: BaseLM) -> tuple[int, ...]:
    ids = {int(base.tokenizer.eos_token_id)}  # type: ignore[arg-type]
    declared = getattr(base.model.generation_config, "eos_token_id", None)
    ids.update([declared] if isinstance(declared, int) else declared or [])
    return tuple(sorted(ids))
