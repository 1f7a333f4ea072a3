"""One token at a time: prompts are read once, then each fed token gives the state that predicts the next.

Every decoder has ``start(embeds) -> [B, d]`` for the prompts and ``step(embeds, alive) -> [B, d]`` for a fed token.
"""

from __future__ import annotations

import logging
from itertools import chain
from typing import Any, Protocol
from weakref import WeakKeyDictionary, proxy

import torch
from torch import Tensor
from transformers import Cache, StaticCache
from transformers.cache_utils import DynamicLayer, StaticLayer

from grade_lightning.models.merged_lora import rounded_copies
from grade_lightning.models.policy import Policy, positions_of
from grade_lightning.rollout.types import RolloutSettings

log = logging.getLogger(__name__)

LENGTHS = 64  # static caches are multiples of this long, so that prompts of other widths find a graph that fits; growing ones grow by it
KEPT_GRAPHS = 4


class Decoder(Protocol):
    """What reads prompts once and then one token after the other."""

    def start(self, embeds: Tensor) -> Tensor:
        """[B, P, d] prompts -> [B, d]."""

    def step(self, embeds: Tensor, alive: Tensor) -> Tensor:
        """[B, d] fed tokens and which of them are real [B] -> [B, d]."""


class _RoomyLayer(DynamicLayer):
    """Keys and values are written into tensors with room for more, where its parent copies all of them for each token.  No gradients."""

    room: tuple[Tensor, Tensor]

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        held = self.get_seq_length()
        length = held + key_states.shape[-2]
        if not held or length > self.room[0].shape[-2]:
            keys, values = (
                states.new_empty(*states.shape[:2], length + LENGTHS, states.shape[-1]) for states in (key_states, value_states)
            )
            if held:
                keys[:, :, :held], values[:, :, :held] = self.keys, self.values  # type: ignore[assignment]
            self.room, self.is_initialized = (keys, values), True
        keys, values = self.room
        keys[:, :, held:length], values[:, :, held:length] = key_states, value_states
        self.keys, self.values = keys[:, :, :length], values[:, :, :length]
        return self.keys, self.values

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each row ``repeats`` times in a row."""
        super().batch_repeat_interleave(repeats)
        self.room = self.keys, self.values  # type: ignore[assignment]  # full: the next token makes more


class GrowingDecoder:
    """A decoder that appends keys and values.

    Args:
        policy: as :func:`grade_lightning.rollout.sampling.sample` has it.
        mask: [B, P] of the prompts.
        group: so many rows in a row have the same prompt, which is read once.
    """

    def __init__(self, policy: Policy, mask: Tensor, group: int = 1):
        self.policy, self.mask, self.cache = policy, mask, Cache(layer_class_to_replicate=_RoomyLayer)
        self.group = 1 if policy.drops else group

    def start(self, embeds: Tensor) -> Tensor:
        """Read the prompts [B, P, d].  -> [B, d]."""
        last = self.policy.hidden(embeds[:: self.group], self.mask[:: self.group], cache=self.cache)[:, -1]
        if self.group == 1:
            return last
        self.cache.batch_repeat_interleave(self.group)
        return last.repeat_interleave(self.group, dim=0)

    def step(self, embeds: Tensor, alive: Tensor) -> Tensor:
        """Read a token of each row [B, d]; ``alive`` [B] says which of them are real.  -> [B, d]."""
        self.mask = torch.cat([self.mask, alive.unsqueeze(1)], dim=1)
        return self.policy.hidden(embeds.unsqueeze(1), self.mask, cache=self.cache)[:, -1]


class LastTokenDecoder(GrowingDecoder):
    """Each token after the first sees only the previous one: ``rollout.context=last_token``."""

    def step(self, embeds: Tensor, alive: Tensor) -> Tensor:
        """Read a token of each row [B, d] without anything before it.  -> [B, d]."""
        self.mask = torch.cat([self.mask, alive.unsqueeze(1)], dim=1)
        alone = torch.ones_like(self.mask[:, -1:])
        return self.policy.hidden(embeds.unsqueeze(1), alone, positions=positions_of(self.mask)[:, -1:])[:, -1]


def _static_cache(policy: Policy, length: int) -> StaticCache:
    return StaticCache(config=policy.lm.config, max_cache_len=length)  # type: ignore[arg-type]


class StaticDecoder:
    """Keys and values are written in place, and every tensor of a step keeps its address: a step can be a CUDA graph.

    Args:
        policy: whose states are computed; the decoder does not keep it alive.
        rows: number of sequences in the cache.
        length: number of tokens of each that the cache has room for, prompt and completion.
    """

    def __init__(self, policy: Policy, rows: int, length: int):
        self.policy: Policy = proxy(policy)  # type: ignore[assignment]  # kept graphs must not keep their policy
        self.cache = _static_cache(policy, length)
        width, dtype, device = policy.embedding.shape[1], policy.embedding.dtype, policy.device
        self.embeds = torch.zeros(rows, 1, width, dtype=dtype, device=device)
        self.visible = torch.zeros(rows, 1, 1, length, dtype=torch.bool, device=device)
        self.positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self.place = 0
        self.graph: torch.cuda.CUDAGraph | None = None
        self.hidden = self.embeds

    @staticmethod
    def fits(policy: Policy) -> bool:
        """Whether all layers keep all keys (sliding windows have masks of their own), and go by the mask that they are given."""
        if policy not in _fits:
            _fits[policy] = all(type(layer) is StaticLayer for layer in _static_cache(policy, 1).layers) and _reads_masks(policy)
        return _fits[policy]

    def prompts(self, mask: Tensor) -> StaticDecoder:
        """Make ready for other prompts, with mask [B, P]."""
        self.cache.reset()
        self.mask, self.place = mask, mask.shape[1]
        self.visible.zero_()
        self.visible[:, 0, 0, : self.place] = mask
        self.positions.copy_(mask.sum(dim=1, keepdim=True) - 1)
        return self

    def start(self, embeds: Tensor) -> Tensor:
        """Read the prompts [B, P, d].  -> [B, d]."""
        # Queries see keys up to themselves; the cache's unused end is invisible.
        width, length = self.place, self.visible.shape[-1]
        causal = torch.ones(width, length, dtype=torch.bool, device=embeds.device).tril()
        # A padded query sees itself: attention over nothing is not a number.
        itself = torch.eye(width, length, dtype=torch.bool, device=embeds.device)
        return self.policy.hidden(embeds, causal & self.visible | itself, cache=self.cache, positions=positions_of(self.mask))[:, -1]

    def step(self, embeds: Tensor, alive: Tensor) -> Tensor:
        """Read a token of each row [B, d], by the graph where one was captured.  -> [B, d]."""
        self.embeds.copy_(embeds.unsqueeze(1))
        self.visible[:, 0, 0, self.place] = alive
        self.positions.add_(alive.unsqueeze(1))
        self.place += 1
        if self.graph is None:
            return self._forward()
        self.graph.replay()
        return self.hidden

    def _forward(self) -> Tensor:
        return self.policy.hidden(self.embeds, self.visible, cache=self.cache, positions=self.positions)[:, -1]

    def capture(self, embeds: Tensor) -> None:
        """Make :meth:`step` a CUDA graph.  The cache holds nothing of use afterwards: call :meth:`prompts` again."""
        self.start(embeds)  # allocates the cache
        self.cache.reset()  # and the steps below must not write past its end
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # lets libraries allocate what they keep
                self._forward()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.hidden = self._forward()
        self.graph = graph


_fits: WeakKeyDictionary[Policy, bool] = WeakKeyDictionary()


@torch.no_grad()
def _reads_masks(policy: Policy) -> bool:
    """Whether a few states of the reference are the same from a static cache with unused places as from one that grows."""
    mask = torch.tensor([[False, True, True]], device=policy.device)
    ids = torch.arange(4, device=policy.device)[None] % policy.vocab_size
    prompt, token, alive = policy.embed(ids[:, :3]), policy.embed(ids[:, 3]), mask[:, -1]
    static, growing = StaticDecoder(policy, 1, 8).prompts(mask), GrowingDecoder(policy, mask)
    with policy.reference():
        expected = [growing.start(prompt), growing.step(token, alive)]
        try:
            found = [static.start(prompt), static.step(token, alive)]
        except (RuntimeError, ValueError) as error:  # transformers makes something else of the mask: ALiBi
            log.info("%s has no static cache: %s", policy.name, error)
            return False
    allowed = 0.05 if expected[0].element_size() < 4 else 1e-3
    return all(bool((own - other).abs().max() <= allowed * other.abs().max()) for own, other in zip(found, expected, strict=True))


class _Graphs:
    """Captured decoders of one policy, the most recently used ones.

    Args:
        possible: whether the policy's layers fit a static decoder; False, too, once a capture has failed.
    """

    def __init__(self, *, possible: bool = True) -> None:
        self.decoders: dict[tuple[int, int, bool], StaticDecoder] = {}
        self.places: tuple[int, ...] = ()
        self.possible = possible

    def get(self, policy: Policy, embeds: Tensor, mask: Tensor, length: int) -> StaticDecoder | None:
        if not self.possible:
            return None
        # A graph reads the addresses it was captured with, and a trainer moves its module to the CPU and back between its loops.
        places = tuple(tensor.data_ptr() for tensor in chain(policy.parameters(), policy.buffers(), rounded_copies(policy.peft)))
        if places != self.places:
            self.decoders.clear()
            self.places = places
        key = len(mask), -(-length // LENGTHS) * LENGTHS, policy.is_reference
        decoder = self.decoders.pop(key, None)
        if decoder is None:
            decoder = StaticDecoder(policy, *key[:2]).prompts(mask)
            try:
                decoder.capture(embeds)
            except RuntimeError as error:
                self.possible = False
                self.decoders.clear()
                log.warning("no CUDA graph for sampling, which is slower without (rollout.cache=growing silences this): %s", error)
                return None
        self.decoders[key] = decoder
        if len(self.decoders) > KEPT_GRAPHS:
            del self.decoders[next(iter(self.decoders))]
        return decoder.prompts(mask)


_graphs: WeakKeyDictionary[Policy, _Graphs] = WeakKeyDictionary()


def graphed(policy: Policy, settings: RolloutSettings) -> bool:
    """Whether sampling runs as a CUDA graph: it then needs the adapters where they were when it was captured, unmerged."""
    if settings.cache != "auto" or settings.context != "full" or policy.device.type != "cuda" or policy.drops or policy.sharded:
        return False
    if policy not in _graphs:
        _graphs[policy] = _Graphs(possible=StaticDecoder.fits(policy))
    return _graphs[policy].possible


def decoder_of(policy: Policy, embeds: Tensor, mask: Tensor, settings: RolloutSettings, group: int = 1) -> Decoder:
    """The decoder that the settings ask for, for prompts [B, P, d] with mask [B, P], ``group`` rows in a row having the same."""
    if settings.context == "last_token":
        return LastTokenDecoder(policy, mask, group)
    length = mask.shape[1] + settings.max_new_tokens
    found = _graphs[policy].get(policy, embeds, mask, length) if graphed(policy, settings) else None
    if found is not None:
        return found
    if settings.cache == "static":
        if not StaticDecoder.fits(policy):
            raise ValueError(f"{policy.name} has layers with a sliding window or masks of their own: set rollout.cache=growing")
        return StaticDecoder(policy, len(mask), length).prompts(mask)
    return GrowingDecoder(policy, mask, group)
