"""The sampler against decoding that has no cache, no padding and no batch."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from grade_lightning.data.prompts import PromptBatch
from grade_lightning.models.policy import Policy
from grade_lightning.rollout.noise import evaluation_noise, training_noise
from grade_lightning.rollout.sampling import sample
from grade_lightning.rollout.types import RolloutSettings
from tests.conftest import TEXTS, make_batch, make_context, make_policy

SETTINGS = RolloutSettings(max_new_tokens=10, min_new_tokens=3, top_k=24)


def decode_without_cache(policy: Policy, ids: list[int], noise: Tensor, settings: RolloutSettings) -> list[int]:
    """One prompt, no padding, the whole prefix again for each token, straight through the transformers model."""
    ids, start = list(ids), len(ids)
    for t in range(settings.max_new_tokens):
        logits = policy.lm(input_ids=torch.tensor([ids])).logits[0, -1]
        if t < settings.min_new_tokens:
            logits[list(policy.eos_ids)] = -torch.inf
        values, candidates = logits.topk(settings.top_k)
        ids.append(int(candidates[(values + noise[t]).argmax()]))
        if ids[-1] in policy.eos_ids:
            break
    return ids[start:]


def completions(policy: Policy, prompt: PromptBatch, noise: Tensor, settings: RolloutSettings = SETTINGS) -> list[list[int]]:
    rollout = sample(policy, prompt, noise, settings)
    return [row[mask].tolist() for row, mask in zip(rollout.completion_ids, rollout.mask, strict=True)]


@pytest.mark.parametrize("cache", ["growing", "static"])
@pytest.mark.parametrize("folder", ["model_folder", "untied_folder", "gpt2_folder"])
def test_equals_decoding_without_cache_or_padding(folder, cache, request):
    _, policy = make_policy(request.getfixturevalue(folder))
    batch, noise = make_batch(policy), training_noise(0, 1, 4, 10, 24).double()
    with torch.no_grad():
        expected = [decode_without_cache(policy, batch.ids[i][batch.mask[i]].tolist(), noise[i], SETTINGS) for i in range(4)]
    assert completions(policy, batch, noise, replace(SETTINGS, cache=cache)) == expected


def test_greedy_in_the_state_training_leaves_the_model_in(model_folder):
    """Gradient checkpointing on and train mode make transformers drop its cache; sampling must not notice."""
    _, policy = make_policy(model_folder)
    batch, silence = make_batch(policy), torch.zeros(4, 10, 24, dtype=torch.float64)
    with torch.no_grad():
        expected = [decode_without_cache(policy, batch.ids[i][batch.mask[i]].tolist(), silence[i], SETTINGS) for i in range(4)]
    policy.peft.gradient_checkpointing_enable()
    policy.peft.train()
    assert completions(policy, batch, silence) == expected


def test_greedy_after_a_real_training_step(model_folder, data_module):
    from tests.methods.harness import make_grade, train_steps

    _, policy = make_policy(model_folder, precision="fp32", perturb=0)
    train_steps(make_grade(policy), data_module, 1)
    batch, silence = make_batch(policy), torch.zeros(4, 10, 24)
    with torch.no_grad():
        expected = [decode_without_cache(policy, batch.ids[i][batch.mask[i]].tolist(), silence[i], SETTINGS) for i in range(4)]
    assert completions(policy, batch, silence) == expected


@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_more_padding_changes_nothing(folder, request):
    _, policy = make_policy(request.getfixturevalue(folder))
    batch, noise = make_batch(policy), training_noise(0, 1, 4, 10, 24).double()
    wide = PromptBatch(
        torch.cat([torch.full((4, 5), policy.pad_id), batch.ids], 1), torch.cat([torch.zeros(4, 5, dtype=torch.bool), batch.mask], 1),
        batch.keys, batch.labels, batch.rows, batch.step,
    )  # fmt: skip
    assert completions(policy, batch, noise) == completions(policy, wide, noise)


def test_first_eos_is_real_and_ends_the_row(policy64):
    """Noise that forces the end of sequence at a known place in each row, where it is allowed."""
    batch = make_batch(policy64)
    settings = RolloutSettings(max_new_tokens=8, min_new_tokens=3, top_k=policy64.vocab_size)
    noise = torch.zeros(4, 8, policy64.vocab_size, dtype=torch.float64)
    probe = sample(policy64, batch, noise, settings)
    wanted = {0: 3, 1: 5, 2: 0}  # row 2 asks too early
    for row, t in wanted.items():
        place = (probe.indices[row, t] == policy64.eos_ids[0]).nonzero().item()
        noise[row, t, place] = 1e6
    rollout = sample(policy64, batch, noise, settings)
    assert rollout.mask.sum(dim=1).tolist()[:2] == [4, 6]
    for row, t in ((0, 3), (1, 5)):
        assert rollout.completion_ids[row, t] == policy64.eos_ids[0]
        assert not rollout.mask[row, t + 1 :].any()
        assert (rollout.completion_ids[row, t + 1 :] == policy64.pad_id).all()
    assert policy64.eos_ids[0] not in rollout.completion_ids[2, :3]


def test_ends_early_when_every_row_is_done(policy64):
    batch = make_batch(policy64)
    settings = RolloutSettings(max_new_tokens=50, min_new_tokens=0, top_k=policy64.vocab_size)
    noise = torch.zeros(4, 50, policy64.vocab_size, dtype=torch.float64)
    place = (sample(policy64, batch, noise, settings).indices[:, 0] == policy64.eos_ids[0]).nonzero()[:, 1]
    noise[torch.arange(4), 0, place] = 1e6
    assert sample(policy64, batch, noise, settings).mask.shape == (4, 1)


def test_noise_is_keyed_by_step_and_prompt_not_by_batch():
    assert not torch.equal(training_noise(0, 1, 4, 3, 5), training_noise(0, 2, 4, 3, 5))
    assert torch.equal(training_noise(0, 1, 4, 3, 5), training_noise(0, 1, 4, 3, 5))
    together = evaluation_noise(0, (11, 12, 13), 3, 5)
    assert torch.equal(together[1:2], evaluation_noise(0, (12,), 3, 5))


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"k": 999}, "top_k=999 is above the vocabulary size 320"), ({"early": 9}, "min_new_tokens=9")],
)
def test_impossible_settings_are_refused(policy64, settings, message):
    from tests.conftest import make_reward

    with pytest.raises(ValueError, match=message):
        make_context(policy64, make_reward(policy64), **settings).check()


def test_texts_have_different_lengths(tokenizer):
    """Otherwise none of the padding tests above would test padding."""
    assert len({len(tokenizer(text)["input_ids"]) for text in TEXTS}) == len(TEXTS)
