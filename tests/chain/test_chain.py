"""Backpropagation through generation: against finite differences, prefix recomputation, and the two paths against each other."""

import pytest
import torch
from torch import Tensor

from grade_lightning.estimators import exact_kl, gumbel_softmax_weights
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import Rollout, RolloutSettings
from tests.conftest import make_batch, make_policy
from tests.methods.harness import gradient, make_grade

BETA = 0.3
ROUNDING = 2e-6  # Qwen3's norms and rotary embeddings compute in fp32 inside a float64 model; GPT-2's do not


def prefix_recomputation(method, rollout: Rollout, tau: float, straight_through: bool, *, hops: bool = True) -> Tensor:
    """The objective of eq. 16, written out plainly: the whole prefix again for each token, dense embeddings, one autograd graph.

    Shares no code with the engine beyond the relaxation and the transformers model.  Without ``hops`` the policy reads the tokens
    that it is fed as constants.
    """
    policy: Policy = method.policy
    embedding, prompt = policy.lm.get_input_embeddings()(torch.arange(policy.vocab_size)), rollout.prompt
    embeds, mask = embedding[prompt.ids], prompt.mask
    fed, logits = embeds, []
    for t in range(rollout.mask.shape[1]):
        positions = (mask.long().cumsum(1) - 1).clamp_min(0)
        out = policy.lm(inputs_embeds=fed, attention_mask=mask.long(), position_ids=positions).logits[:, -1]
        logits.append(out)
        candidates = out.clone()
        if t < method.context.rollout.min_new_tokens:
            candidates[:, list(policy.eos_ids)] = -torch.inf
        candidates = candidates.gather(-1, rollout.indices[:, t])
        weights = gumbel_softmax_weights(candidates, rollout.noise[:, t], tau, hard=rollout.hard[:, t], straight_through=straight_through)
        dense = torch.zeros_like(out).scatter(-1, rollout.indices[:, t], weights)
        alive = rollout.mask[:, t]
        soft = torch.where(alive[:, None], dense @ embedding, embedding[policy.pad_id])
        embeds, mask = torch.cat([embeds, soft[:, None]], 1), torch.cat([mask, alive[:, None]], 1)
        fed = embeds if hops else embeds.detach()
    positions = (mask.long().cumsum(1) - 1).clamp_min(0)
    with policy.peft.disable_adapter():
        out = policy.lm(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions, output_hidden_states=True)
    width = prompt.ids.shape[1]
    kl = exact_kl(torch.stack(logits, 1), out.logits[:, width - 1 : -1], rollout.mask)
    pooled = (out.hidden_states[-1] * mask[..., None]).sum(1) / mask.sum(1, keepdim=True)
    scores = torch.softmax(method.context.reward.head(pooled), -1)[:, 1]
    return -scores.mean() + BETA * kl.sum() / rollout.mask.sum()


def autograd_gradient(method, batch, tau: float, straight_through: bool, *, hops: bool = True) -> Tensor:
    rollout = method.sample_effective_batch(batch)[0]
    loss = prefix_recomputation(method, rollout, tau, straight_through, hops=hops)
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(method.policy.trainable().values()))])


def relative_error(found: Tensor, expected: Tensor) -> float:
    assert expected.norm() > 1e-6
    return float((found - expected).norm() / expected.norm())


@pytest.mark.parametrize("backprop", ["sequential", "adjoint"])
@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("folder", ["model_folder", "untied_folder", "gpt2_folder"])
def test_equals_prefix_recomputation(request, folder, straight_through, backprop):
    _, policy = make_policy(request.getfixturevalue(folder))
    method = make_grade(policy, tau=0.8, straight_through=straight_through, backprop=backprop, kl_coef=BETA)
    batch = make_batch(policy)
    expected = autograd_gradient(method, batch, 0.8, straight_through)
    assert relative_error(gradient(method, batch), expected) < (1e-10 if folder == "gpt2_folder" else ROUNDING)


@pytest.mark.parametrize("backprop", ["sequential", "adjoint"])
def test_rows_that_end_early(policy64, backprop, monkeypatch):
    """An end of sequence in the middle of the batch: what follows it must carry no gradient."""
    monkeypatch.setattr(policy64, "eos_ids", tuple(range(0, 320, 4)))
    method = make_grade(policy64, tau=0.8, backprop=backprop, kl_coef=BETA, tokens=10)
    batch = make_batch(policy64, step=2)
    lengths = method.sample_effective_batch(batch)[0].mask.sum(dim=1)
    assert len(set(lengths.tolist())) > 1
    expected = autograd_gradient(method, batch, 0.8, True)
    assert relative_error(gradient(method, batch), expected) < ROUNDING


@pytest.mark.parametrize("backprop", ["sequential", "adjoint"])
def test_soft_chain_against_finite_differences(gpt2_folder, backprop):
    """Without straight-through the objective is smooth in the weights: its slope along random directions of the LoRA weights.

    GPT-2, because Qwen3's norms compute in fp32 whatever the model's dtype.
    """
    _, policy = make_policy(gpt2_folder)
    method = make_grade(policy, tau=1.0, straight_through=False, backprop=backprop, kl_coef=BETA, tokens=6)
    batch, weights = make_batch(policy), list(policy.trainable().values())
    rollout = method.sample_effective_batch(batch)[0]
    found = gradient(method, batch)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        directions = [torch.randn(weight.shape, generator=generator, dtype=torch.float64) for weight in weights]
        values = {}
        with torch.no_grad():
            for move in (1e-6, -1e-6):
                for weight, direction in zip(weights, directions, strict=True):
                    weight.add_(direction, alpha=move)
                values[move] = float(prefix_recomputation(method, rollout, 1.0, False))
                for weight, direction in zip(weights, directions, strict=True):
                    weight.add_(direction, alpha=-move)
        slope = float(found @ torch.cat([direction.flatten() for direction in directions]))
        assert (values[1e-6] - values[-1e-6]) / 2e-6 == pytest.approx(slope, rel=1e-5)


def test_adjoint_equals_sequential_to_its_tolerance(policy64):
    batch = make_batch(policy64)
    exact = gradient(make_grade(policy64, tau=1.0, backprop="sequential", tokens=16), batch)
    for tol in (1e-2, 1e-4, 1e-8):
        assert relative_error(gradient(make_grade(policy64, tau=1.0, tol=tol, tokens=16), batch), exact) < 3 * tol + ROUNDING


def reports_of(monkeypatch) -> list:
    """Every report of the adjoint from now on."""
    from grade_lightning.chain import adjoint

    reports, solve = [], adjoint.backward_through_time
    monkeypatch.setattr(adjoint, "backward_through_time", lambda *args, **options: reports.append(solve(*args, **options)) or reports[-1])
    return reports


@pytest.mark.parametrize("tau", [2.0, 0.7])
def test_sixteen_bits_stop_at_their_rounding(model_folder, monkeypatch, tau):
    """The same rollouts through the same weights in fp32 and in bf16: terms below bf16's rounding bring its gradient no closer."""
    reports = reports_of(monkeypatch)
    wide, narrow = (make_policy(model_folder, precision=precision)[1] for precision in ("fp32", "bf16"))
    with torch.no_grad():
        for own, other in zip(wide.parameters(), narrow.parameters(), strict=True):
            own.copy_(other)
    batch, settings = make_batch(wide), {"tau": tau, "tokens": 24, "kl_coef": BETA}
    rollout = make_grade(wide, **settings).sample_effective_batch(batch)[0]

    def solved(policy, tol):
        method = make_grade(policy, tol=tol, **settings)
        method.sample_effective_batch = lambda _: [rollout]
        return gradient(method, batch).float(), reports[-1]

    exact, _ = solved(wide, 1e-6)
    errors = {}
    for tol in (0.3, 1e-3, 1e-12):
        found, report = solved(narrow, tol)
        errors[tol] = relative_error(found, exact)
        assert report.limited_by_rounding == (tol < 0.3)
        assert report.residual >= report.tolerance or not report.limited_by_rounding
    # A report that says 1e-3 would be wrong by a factor of ten; this one is right to a factor of eight.
    assert 1e-3 < errors[1e-3] < 8 * report.tolerance
    assert errors[1e-3] == errors[1e-12] < errors[0.3]
    narrow_hops, wide_hops = reports[-1].hops, solved(wide, 1e-3)[1].hops
    assert 1 <= narrow_hops < wide_hops


def test_truncation_is_a_different_estimator_that_reports_itself(policy64):
    batch = make_batch(policy64)
    exact = gradient(make_grade(policy64, tau=0.5, tokens=16), batch)
    errors = [relative_error(gradient(make_grade(policy64, tau=0.5, max_hops=hops, tokens=16), batch), exact) for hops in (0, 2, 15)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[0] > 1e-3
    assert errors[2] < ROUNDING


@pytest.mark.parametrize("straight_through", [True, False])
def test_without_a_hop_fed_tokens_are_constants(policy64, straight_through):
    """``max_hops=0``: a token acts on reward and reference, and on no later token."""
    batch, settings = make_batch(policy64), {"tau": 0.5, "straight_through": straight_through, "kl_coef": BETA}
    expected = autograd_gradient(make_grade(policy64, **settings), batch, 0.5, straight_through, hops=False)
    assert relative_error(gradient(make_grade(policy64, max_hops=0, **settings), batch), expected) < ROUNDING
    assert relative_error(gradient(make_grade(policy64, max_hops=1, **settings), batch), expected) > 1e-3


@pytest.mark.parametrize("straight_through", [True, False])
def test_a_single_token(policy64, straight_through):
    """Nothing follows it: no hop, and a gradient all the same."""
    batch, settings = make_batch(policy64), {"tau": 0.8, "straight_through": straight_through, "kl_coef": BETA, "tokens": 1, "early": 1}
    expected = autograd_gradient(make_grade(policy64, **settings), batch, 0.8, straight_through)
    assert relative_error(gradient(make_grade(policy64, **settings), batch), expected) < ROUNDING


def test_rows_do_not_influence_each_others_series(policy64):
    """The stop rule is per row: a row's gradient is the same alone and beside a row whose series is longer."""
    batch = make_batch(policy64)
    method = make_grade(policy64, tau=0.7, tol=1e-2, tokens=16, kl_coef=0.0)
    together = gradient(method, batch)
    split = make_grade(policy64, tau=0.7, tol=1e-2, tokens=16, kl_coef=0.0, grad_accumulation=4)
    assert relative_error(gradient(split, batch), together) < ROUNDING


def test_recorded_hard_tokens_are_reused(policy64):
    """Logits that changed since sampling must not change which token counts as drawn."""
    batch = make_batch(policy64)
    rollout = sample(policy64, batch, torch.randn(4, 8, 24, dtype=torch.float64), RolloutSettings(8, 2, 24))
    before = rollout.completion_ids.clone()
    with torch.no_grad():
        for weight in policy64.trainable().values():
            weight.add_(0.3 * torch.randn_like(weight))
    from grade_lightning.chain.adjoint import relax_in_parallel
    from grade_lightning.chain.sequential import relax_sequentially

    def relax(logits, noise, hard):
        assert (logits + noise).isfinite().any()
        return gumbel_softmax_weights(logits, noise, 1.0, hard=hard)

    for relaxed in (relax_sequentially(policy64, rollout, relax), relax_in_parallel(policy64, rollout, relax).relaxed):
        fresh = policy64.logits(relaxed.hidden).gather(-1, rollout.indices) + rollout.noise
        drawn = rollout.indices.gather(-1, relaxed.weights.argmax(-1, keepdim=True)).squeeze(-1)
        assert torch.equal(drawn[rollout.mask], before[rollout.mask])
        assert not torch.equal(fresh.argmax(-1), rollout.hard)  # the change was large enough to matter


@pytest.mark.parametrize("straight_through", [True, False])
def test_both_paths_agree_under_dropout(model_folder, straight_through):
    """Dropout acts in the gradient pass only: the tokens, soft ones too, keep the values that were fed without it."""
    found = {}
    for backprop in ("sequential", "adjoint"):
        _, policy = make_policy(model_folder, dropout=0.3)
        found[backprop] = gradient(make_grade(policy, straight_through=straight_through, backprop=backprop), make_batch(policy))
    assert relative_error(found["adjoint"], found["sequential"]) < ROUNDING


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("straight_through", [True, False])
@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_checkpointing_changes_nothing_but_memory(request, folder, straight_through, dropout, monkeypatch):
    """Same gradient, and layers are really computed again: more calls than without."""
    found, calls = {}, {}
    for checkpointing in (False, True):
        _, policy = make_policy(request.getfixturevalue(folder), dropout=dropout, checkpointing=checkpointing)
        norm = next(module for name, module in policy.lm.named_modules() if name.endswith(("layers.0.input_layernorm", "h.0.ln_1")))
        norm.register_forward_hook(lambda *_, key=checkpointing: calls.__setitem__(key, calls.get(key, 0) + 1))
        method = make_grade(policy, straight_through=straight_through, kl_coef=BETA)
        found[checkpointing] = gradient(method, make_batch(policy))
        assert not policy.training
    assert relative_error(found[True], found[False]) < ROUNDING
    assert calls[True] > calls[False]


def test_checkpointed_policy_gradient(model_folder):
    from grade_lightning.methods import PPOGradient
    from tests.methods.harness import make_module

    found = []
    for checkpointing in (False, True):
        _, policy = make_policy(model_folder, checkpointing=checkpointing)
        found.append(gradient(make_module(PPOGradient, policy, {}, kl_coef=BETA), make_batch(policy)))
    assert relative_error(found[1], found[0]) < ROUNDING
