"""Decoders against each other; on CUDA, a captured step against an eager one."""

import gc
import logging
from dataclasses import replace

import pytest
import torch

from grade_lightning.estimators import gumbel_softmax_weights
from grade_lightning.rollout import decoding
from grade_lightning.rollout.decoding import GrowingDecoder, StaticDecoder, _Graphs, _graphs, decoder_of
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import RolloutSettings
from tests.conftest import make_batch, make_policy

SETTINGS = RolloutSettings(max_new_tokens=10, min_new_tokens=3, top_k=24)
ROUNDING = {"rtol": 1e-5, "atol": 1e-5}  # Qwen3's norms compute in fp32 inside a float64 model


@torch.no_grad()
def test_a_static_decoder_forgets_the_prompts_before(policy64, monkeypatch):
    """The same object for other prompts, wider and narrower, with rows that end: the states of a cache that grows, more than once."""
    monkeypatch.setattr(decoding, "LENGTHS", 2)
    static = StaticDecoder(policy64, rows=4, length=64)
    generator = torch.Generator().manual_seed(0)
    for step in (1, 2, 3):
        batch = make_batch(policy64, step=step)
        ids, mask = batch.ids[:, step:], batch.mask[:, step:]
        growing, embeds = GrowingDecoder(policy64, mask), policy64.embed(ids)
        torch.testing.assert_close(static.prompts(mask).start(embeds), growing.start(embeds), **ROUNDING)
        alive = torch.ones(4, dtype=torch.bool)
        for t in range(6):
            fed = policy64.embed(torch.randint(300, (4,), generator=generator))
            torch.testing.assert_close(static.step(fed, alive), growing.step(fed, alive), **ROUNDING)
            alive = alive & (torch.arange(4) != t)


def test_soft_rollouts_from_both_caches(policy64):
    batch, noise = make_batch(policy64), training_noise(0, 1, 4, 10, 24).double()

    def soft(logits, noise, hard):
        return gumbel_softmax_weights(logits, noise, 0.7, straight_through=False)

    static, growing = (sample(policy64, batch, noise, replace(SETTINGS, cache=cache), soft=soft) for cache in ("static", "growing"))
    assert torch.equal(static.completion_ids, growing.completion_ids)
    torch.testing.assert_close(static.weights, growing.weights, **ROUNDING)


def test_unknown_and_impossible_caches(policy64, monkeypatch):
    with pytest.raises(ValueError, match="cache=paged: it must be one of auto, growing, static"):
        replace(SETTINGS, cache="paged").check(320)
    monkeypatch.setattr(StaticDecoder, "fits", staticmethod(lambda policy: False))
    batch = make_batch(policy64)
    with pytest.raises(ValueError, match=r"set rollout.cache=growing"):
        decoder_of(policy64, policy64.embed(batch.ids), batch.mask, replace(SETTINGS, cache="static"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine where a capture must fail: one without CUDA")
def test_a_failed_capture_warns_once_and_is_not_tried_again(policy64, caplog):
    batch, graphs = make_batch(policy64), _Graphs()
    with caplog.at_level(logging.WARNING), torch.no_grad():
        for _ in range(2):
            assert graphs.get(policy64, policy64.embed(batch.ids), batch.mask, 64) is None
    assert [record.message.startswith("no CUDA graph for sampling") for record in caplog.records] == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
def test_captured_sampling_is_eager_sampling(model_folder):
    """For policy and reference, after the adapters change, and after a trainer has moved the weights away and back."""
    _, policy = make_policy(model_folder, precision="fp32")
    policy.cuda()
    batch, noise = make_batch(policy).to(policy.device), training_noise(0, 1, 4, 10, 24)
    for _ in range(3):
        for context in (policy.reference, torch.no_grad):
            with context():
                found, expected = (sample(policy, batch, noise, replace(SETTINGS, cache=cache)) for cache in ("auto", "growing"))
            assert torch.equal(found.completion_ids, expected.completion_ids)
        assert len(_graphs[policy].decoders) == 2
        with torch.no_grad():
            for weight in policy.trainable().values():
                weight.add_(0.3 * torch.randn_like(weight))
        policy.cpu()
        torch.cuda.empty_cache()
        policy.cuda()


def test_kept_decoders_do_not_keep_their_policy(model_folder):
    _, policy = make_policy(model_folder)
    _graphs.setdefault(policy, _Graphs()).decoders[1, 64, False] = StaticDecoder(policy, 1, 64)
    before = len(_graphs)
    del policy
    gc.collect()
    assert len(_graphs) == before - 1


@torch.no_grad()
def test_a_step_is_one_graph(policy64):
    """What a CUDA graph needs can be seen on a processor: torch.compile takes a step whole, without a break."""
    batch, generator = make_batch(policy64), torch.Generator().manual_seed(0)
    captured, eager = (StaticDecoder(policy64, 4, 64).prompts(batch.mask) for _ in range(2))
    embeds, alive = policy64.embed(batch.ids), torch.ones(4, dtype=torch.bool)
    torch.testing.assert_close(captured.start(embeds), eager.start(embeds))
    captured.policy = policy64  # the compiler knows no proxies
    captured._forward = torch.compile(captured._forward, fullgraph=True, backend="eager")
    for _ in range(3):
        fed = policy64.embed(torch.randint(300, (4,), generator=generator))
        torch.testing.assert_close(captured.step(fed, alive), eager.step(fed, alive))
