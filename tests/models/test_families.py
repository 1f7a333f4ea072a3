"""Architectures whose ends or attention are not Llama's: the policy is transformers' own model, and gradients are autograd's.

All in float64 throughout (:class:`tests.models.families.Wide`), so that a wrong scale, cap, mask or cache cannot hide behind rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grade_lightning.chain.divergence import kl_gradients
from grade_lightning.chain.logprobs import surprisal
from grade_lightning.chain.parallel import hard_hidden
from grade_lightning.estimators import exact_kl, gumbel_softmax_weights
from grade_lightning.models.base import load_base
from grade_lightning.models.policy import Policy, positions_of
from grade_lightning.rollout.decoding import StaticDecoder
from grade_lightning.rollout.noise import training_noise
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout, RolloutSettings
from tests.chain.test_chain import autograd_gradient, relative_error
from tests.conftest import make_batch
from tests.methods.harness import gradient, make_grade
from tests.models.families import MODELS, OTHER, SCALED, USUAL, Wide, policy_of, save_family

EXACT = 1e-10
TAU, BETA = 0.8, 0.3
SETTINGS = RolloutSettings(max_new_tokens=10, min_new_tokens=3, top_k=24)
NO_STATIC = {"Gemma2", "Gemma3Text", "Cohere2", "Mistral", "GPTNeo", "Bloom"}


@pytest.fixture(scope="module", params=MODELS)
def family(request, tmp_path_factory, tokenizer) -> tuple[str, Policy]:
    with Wide():
        return request.param, policy_of(request.param, tmp_path_factory.mktemp(request.param), tokenizer)


@pytest.fixture
def wide() -> Iterator[None]:
    with Wide():
        yield


def drawn(policy: Policy, **options) -> Rollout:
    return sample(policy, make_batch(policy), training_noise(0, 1, 4, 10, 24).double(), replace(SETTINGS, **options))


def own_logits(policy: Policy, ids: Tensor, mask: Tensor) -> Tensor:
    """[B, L, V] of the transformers model, from ids alone."""
    return policy.lm(input_ids=ids, attention_mask=mask.long(), position_ids=positions_of(mask)).logits


@torch.no_grad()
@pytest.mark.usefixtures("wide")
def test_logits_are_those_of_transformers(family):
    """Of policy and reference, in one pass and in two, for prompts of several lengths and completions longer than the windows."""
    _, policy = family
    rollout = drawn(policy, cache="growing")
    prompt, mask = rollout.prompt, rollout.whole_mask
    ids = torch.cat([prompt.ids, rollout.completion_ids], dim=1)
    seen = []
    for adapters in (True, False):
        with policy.peft.disable_adapter() if not adapters else torch.no_grad():
            expected = own_logits(policy, ids, mask)[mask]
        with policy.reference() if not adapters else torch.no_grad():
            before, states = policy.states(prompt.ids, prompt.mask, policy.embed(rollout.completion_ids), rollout.mask)
            once = policy.hidden(policy.embed(ids), mask)
        for found in (torch.cat([before, states], dim=1), once):
            assert (policy.logits(found)[mask] - expected).abs().max() < EXACT
        seen.append(expected)
    assert (seen[0] - seen[1]).abs().max() > 1e-3


@torch.no_grad()
@pytest.mark.usefixtures("wide")
def test_sampling_from_a_cache_is_sampling_without(family):
    """Token by token, transformers reads the whole prefix again."""
    name, policy = family
    caches = ("growing",) if name in NO_STATIC else ("growing", "static")
    for cache in caches:
        rollout = drawn(policy, cache=cache)
        ids, mask = rollout.prompt.ids, rollout.prompt.mask
        for t in range(rollout.mask.shape[1]):
            logits = own_logits(policy, ids, mask)[:, -1]
            if t < SETTINGS.min_new_tokens:
                logits[:, list(policy.eos_ids)] = -torch.inf
            top = logits.topk(SETTINGS.top_k, dim=-1)
            hard = (top.values + rollout.noise[:, t]).argmax(dim=-1, keepdim=True)
            alive = rollout.mask[:, t]
            token = torch.where(alive, top.indices.gather(-1, hard).squeeze(-1), policy.pad_id)
            assert torch.equal(token, rollout.completion_ids[:, t])
            assert torch.equal(top.indices[alive], rollout.indices[:, t][alive])
            ids, mask = torch.cat([ids, token[:, None]], 1), torch.cat([mask, alive[:, None]], 1)


@pytest.mark.usefixtures("wide")
def test_which_families_have_a_static_cache(family):
    name, policy = family
    assert StaticDecoder.fits(policy) == (name not in NO_STATIC)
    if name in NO_STATIC:
        with pytest.raises(ValueError, match=r"set rollout.cache=growing"):
            drawn(policy, cache="static")


@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.usefixtures("wide")
def test_gradients_are_those_of_the_whole_chain(family, straight_through):
    """The adjoint and token-by-token backpropagation, and both against plain autograd through transformers' own logits."""
    _, policy = family
    batch, options = make_batch(policy), {"tau": TAU, "straight_through": straight_through, "kl_coef": BETA}
    adjoint = gradient(make_grade(policy, tol=1e-12, **options), batch)
    assert relative_error(adjoint, gradient(make_grade(policy, backprop="sequential", **options), batch)) < EXACT
    assert relative_error(adjoint, autograd_gradient(make_grade(policy, **options), batch, TAU, straight_through)) < EXACT


@pytest.mark.usefixtures("wide")
def test_kl_gradients_are_those_of_autograd(family):
    _, policy = family
    generator = torch.Generator().manual_seed(0)
    own, other = (torch.randn(3, 7, 32, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    found = kl_gradients(policy, own, other, mask)
    kl = exact_kl(policy.logits(own), policy.logits(other), mask)
    expected = torch.autograd.grad(kl.sum(), (own, other))
    for one, wanted in ((found.kl, kl), (found.hidden, expected[0]), (found.reference_hidden, expected[1])):
        assert (one - wanted).norm() < EXACT * wanted.norm()


@torch.no_grad()
@pytest.mark.usefixtures("wide")
def test_log_probabilities_are_those_of_transformers(family):
    _, policy = family
    rollout = drawn(policy)
    ids = torch.cat([rollout.prompt.ids, rollout.completion_ids], dim=1)
    expected = own_logits(policy, ids, rollout.whole_mask)[:, rollout.prompt.ids.shape[1] - 1 : -1].log_softmax(dim=-1)
    expected = -expected.gather(-1, rollout.completion_ids[..., None])[..., 0]
    assert (surprisal(policy, rollout, hard_hidden(policy, rollout)) - expected)[rollout.mask].abs().max() < EXACT


@pytest.mark.parametrize("name", SCALED)
def test_activation_checkpointing_keeps_the_gradient(name, tmp_path, tokenizer):
    """In fp32: :class:`Wide` does not reach into a backward pass that computes a layer again."""
    found = []
    for checkpointing in (False, True):
        policy = policy_of(name, tmp_path, tokenizer, precision="fp32", checkpointing=checkpointing)
        found.append(gradient(make_grade(policy, tau=TAU, kl_coef=BETA), make_batch(policy)))
    assert relative_error(found[1], found[0]) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("name", SCALED)
def test_a_relaxed_token_that_is_one_token_enters_as_it_does(name, tmp_path, tokenizer):
    """To the bit in 16 bits, where a scale is rounded too: a straight-through sample is read as it was drawn."""
    policy = policy_of(name, tmp_path, tokenizer, precision="bf16")
    rollout = sample(policy, make_batch(policy), training_noise(0, 1, 4, 10, 24), SETTINGS)
    onehot = torch.zeros_like(rollout.noise).scatter_(-1, rollout.hard[..., None], 1.0)
    soft, hard = policy.embed_soft(rollout.soft(onehot), rollout.mask), policy.embed(rollout.completion_ids)
    assert torch.equal(soft, hard)
    assert torch.equal(hard, policy.lm.get_input_embeddings()(rollout.completion_ids))


def test_soft_samples_come_from_capped_logits(tmp_path, tokenizer):
    """What soft GRADE feeds forward is made from the logits that the token was drawn from."""
    with Wide():
        policy = policy_of("Gemma2", tmp_path, tokenizer)

        def soft(logits: Tensor, noise: Tensor, hard: Tensor) -> Tensor:
            assert float(logits[logits.isfinite()].abs().max()) < 2.0
            return gumbel_softmax_weights(logits, noise, TAU, straight_through=False)

        rollout = sample(policy, make_batch(policy), training_noise(0, 1, 4, 10, 24).double(), SETTINGS, soft=soft)
        assert rollout.weights is not None


@pytest.mark.parametrize("name", OTHER)
def test_adapters_by_default(name, tmp_path, tokenizer):
    policy = policy_of(name, tmp_path, tokenizer)
    assert {layer.split(".lora_")[0].rsplit(".", 1)[-1] for layer in policy.trainable()} == OTHER[name][1]


@pytest.mark.parametrize("name", [*SCALED, *USUAL])
def test_attention_projections_are_still_all_four_where_they_have_the_usual_names(name, tmp_path, tokenizer):
    """PEFT would choose two of them: the paper's choice stands before PEFT's."""
    policy = policy_of(name, tmp_path, tokenizer)
    assert len(policy.trainable()) == 2 * 4 * 2
    assert {layer.split(".lora_")[0].rsplit(".", 1)[-1] for layer in policy.trainable()} == {"q_proj", "k_proj", "v_proj", "o_proj"}


def test_an_architecture_that_nobody_knows_is_told_what_to_set(tmp_path, tokenizer):
    folder = save_family("BioGpt", tmp_path, tokenizer, vocab_size=320, hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
                         intermediate_size=64)  # fmt: skip
    with pytest.raises(ValueError, match=r"set model.lora.target_modules to .*\['fc1', 'fc2', 'k_proj', 'out_proj', 'q_proj', 'v_proj'\]"):
        Policy(load_base(str(folder)))
    assert len(Policy(load_base(str(folder)), target_modules=["q_proj", "v_proj"]).trainable()) == 2 * 2 * 2
