"""What the chain is made of: gradients written out by hand, merged adapters, memory."""

import pytest
import torch

from grade_lightning.estimators import exact_kl, gumbel_softmax_weights
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import RolloutSettings
from tests.chain.test_chain import ROUNDING
from tests.conftest import make_batch, make_policy
from tests.methods.harness import make_grade


@pytest.mark.parametrize("folder", ["model_folder", "untied_folder", "gpt2_folder"])
def test_kl_gradients_are_those_of_autograd(request, folder, monkeypatch):
    """The gradients written out by hand, in several chunks, against the exact KL differentiated whole."""
    from grade_lightning.chain import chunks
    from grade_lightning.chain.divergence import kl_gradients

    _, policy = make_policy(request.getfixturevalue(folder))
    generator = torch.Generator().manual_seed(0)
    own, other = (torch.randn(3, 7, 32, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    mask = torch.arange(7) < torch.tensor([7, 4, 1])[:, None]
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 5 * policy.vocab_size)
    found = kl_gradients(policy, own, other, mask)
    kl = exact_kl(policy.logits(own), policy.logits(other), mask)
    expected = torch.autograd.grad(kl.sum(), (own, other))
    assert torch.allclose(found.kl, kl)
    assert torch.allclose(found.hidden, expected[0])
    assert torch.allclose(found.reference_hidden, expected[1])
    monkeypatch.setattr(type(policy.head), "matrix", None)
    assert torch.allclose(kl_gradients(policy, own, other, mask).hidden, expected[0])


def test_candidate_logits_have_the_gradient_of_a_gather(policy64, monkeypatch):
    from grade_lightning.chain.candidates import candidate_logits

    hidden = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    indices = torch.randint(policy64.vocab_size, (2, 5, 9), generator=torch.Generator().manual_seed(1))
    cotangent = torch.randn(2, 5, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours = candidate_logits(policy64, hidden, indices)
    plain = policy64.logits(hidden).gather(-1, indices)
    assert torch.allclose(ours, plain)
    gradients = [torch.autograd.grad((values * cotangent).sum(), hidden)[0] for values in (ours, plain)]
    assert torch.allclose(*gradients)


def test_candidate_logits_in_inference_mode(policy64):
    """Of states that were made there, of states from outside, and of a sampled rollout that is relaxed there."""
    from grade_lightning.chain.candidates import candidate_logits
    from grade_lightning.chain.sequential import relax_sequentially

    outside = torch.randn(2, 5, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    indices = torch.randint(policy64.vocab_size, (2, 5, 9), generator=torch.Generator().manual_seed(1))
    expected = candidate_logits(policy64, outside, indices)
    with torch.inference_mode():
        for hidden, ids in ((outside, indices), (outside.clone(), indices.clone())):
            assert torch.equal(candidate_logits(policy64, hidden, ids), expected)
    batch, noise = make_batch(policy64), torch.randn(4, 8, 24, dtype=torch.float64)
    found = []
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            rollout = sample(policy64, batch, noise, RolloutSettings(8, 2, 24))
            found.append(
                relax_sequentially(policy64, rollout, lambda logits, g, hard: gumbel_softmax_weights(logits, g, 1.0, hard=hard)).candidates
            )
    assert torch.equal(*found)


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_merged_adapters_are_the_policy_and_leave_no_trace(request, folder):
    _, policy = make_policy(request.getfixturevalue(folder))
    batch = make_batch(policy)
    frozen = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
    with torch.no_grad():
        apart = policy.hidden(policy.embed(batch.ids), batch.mask)
        with policy.merged():
            together = policy.hidden(policy.embed(batch.ids), batch.mask)
        with policy.reference():
            reference = policy.hidden(policy.embed(batch.ids), batch.mask)
            with policy.merged():
                same = policy.hidden(policy.embed(batch.ids), batch.mask)
    assert (apart - together)[batch.mask].norm() < ROUNDING * apart.norm()
    assert (apart - reference)[batch.mask].norm() > 1e-3 * apart.norm()
    assert torch.equal(reference, same)
    assert all(torch.equal(weight, frozen[name]) for name, weight in policy.named_parameters())
    with pytest.raises(RuntimeError, match="power cut"), policy.merged():
        raise RuntimeError("power cut")
    assert all(torch.equal(weight, frozen[name]) for name, weight in policy.named_parameters())


def test_memory_does_not_grow_with_terms_or_vocabulary_times_time(model_folder):
    """No tensor of the vocabulary's size per token is kept for the backward pass: what autograd saves, measured."""
    from grade_lightning.chain.adjoint import relax_in_parallel

    saved = {}
    for tokens in (16, 32):
        _, policy = make_policy(model_folder)
        method = make_grade(policy, tokens=tokens, early=tokens)
        rollout = method.sample_effective_batch(make_batch(policy))[0]
        largest, total = 0, 0

        def keep(tensor, shape=(policy.vocab_size,)):
            nonlocal largest, total
            total += tensor.numel()
            if tensor.dim() >= 2 and tensor.shape[-1] == shape[0] and not isinstance(tensor, torch.nn.Parameter):
                largest = max(largest, tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            relax_in_parallel(policy, rollout, method.method._relax(1, True))
        assert largest == 0
        saved[tokens] = total
    assert saved[32] < 2.5 * saved[16]
