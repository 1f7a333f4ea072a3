"""A classifier with another vocabulary: its value is the model's, its gradient is that of token swaps."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from transformers import DistilBertForSequenceClassification, pipeline

from grade_lightning.estimators import SoftTokens
from grade_lightning.rewards.base import Completions, RewardInputs
from grade_lightning.rewards.sequence_classifier import SequenceClassifierReward, label_place, sequence_classifier
from tests.conftest import make_batch, make_policy
from tests.entry import run_small
from tests.methods.harness import gradient, make_grade
from tests.rewards.vocabularies import byte_level, bytes_alone, distilbert, gemma, save_classifier, word_piece

PROMPTS = ["I watched it. ", "The film was "]


def completions_of(tokenizer, texts, *, candidates: torch.Tensor | None = None) -> Completions:
    """Texts as hard completions, or with one-hot weights over given candidates [B, T, k], the first of which is the token itself."""
    from grade_lightning.data.prompts import Prompt, collate

    prompts = [Prompt(tuple(tokenizer(text)["input_ids"]), row, 0) for row, text in enumerate(PROMPTS[: len(texts)])]
    rows = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    rows = [ids[1:] if ids[:1] == [tokenizer.bos_token_id] else ids for ids in rows]
    width = max(map(len, rows))
    ids = torch.tensor([row + [tokenizer.pad_token_id] * (width - len(row)) for row in rows])
    mask = torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in rows])
    batch = collate(prompts, tokenizer.pad_token_id, rows=range(len(rows)))
    soft = None
    if candidates is not None:
        indices = torch.cat([ids.unsqueeze(-1), candidates.expand(*ids.shape, -1)], dim=-1)
        weights = torch.zeros(indices.shape, dtype=torch.float64)
        weights[..., 0] = 1
        soft = SoftTokens(indices, weights.requires_grad_(), ids)
    return Completions(batch, ids, mask, tokenizer, soft)


def reward_of(policy_tokenizer, tokenizer, *, words=1.0, **options) -> SequenceClassifierReward:
    return SequenceClassifierReward(distilbert(tokenizer, words=words), tokenizer, policy_tokenizer, label=1, **options)


def gradient_of(reward, completions) -> tuple[torch.Tensor, torch.Tensor]:
    scores = reward.score(completions)
    return scores.detach(), torch.autograd.grad(scores.sum(), completions.soft.weights)[0]


@pytest.mark.parametrize("output", ["probability", "margin", "raw"])
def test_value_is_the_models_of_the_text(output, tmp_path):
    """Against transformers' own pipeline on the decoded text, one at a time."""
    policy, tokenizer = byte_level(), word_piece()
    reward = reward_of(policy, tokenizer, output=output)
    written = completions_of(policy, ["the acting was naïve", "absurd 😀"], candidates=torch.tensor([5, 9, 60]))
    values, _ = gradient_of(reward, written)
    torch.testing.assert_close(values, reward.score(dataclasses.replace(written, soft=None)), rtol=1e-12, atol=1e-12)
    texts = [prompt + text for prompt, text in zip(written.prompt_texts, written.texts, strict=True)]
    judge = pipeline("text-classification", model=reward.model, tokenizer=tokenizer, top_k=None, function_to_apply="none")
    for text, value in zip(texts, values, strict=True):
        logits = {item["label"]: item["score"] for item in judge([text])[0]}
        margin = logits["positive"] - logits["negative"]
        expected = {"raw": logits["positive"], "margin": margin, "probability": 1 / (1 + torch.tensor(-margin).exp())}[output]
        assert float(value) == pytest.approx(float(expected), rel=1e-6, abs=1e-6)  # the pipeline speaks fp32


@pytest.mark.parametrize("model", [distilbert, gemma])
def test_the_same_vocabulary_gives_the_direct_gradient(model):
    """Bytes alone: every text has one spelling.  Differentiated directly, the relaxed tokens' embeddings go into the model."""
    tokenizer = bytes_alone()
    reward = SequenceClassifierReward(model(tokenizer), tokenizer, bytes_alone(), label=1)
    written = completions_of(tokenizer, ["naïve 😀!", "so\n dull"], candidates=torch.arange(2, 258))
    values, found = gradient_of(reward, written)
    exact = 1e-10 if model is distilbert else 1e-6  # Gemma's norms compute in fp32
    table, soft = reward.model.get_input_embeddings()(torch.arange(len(tokenizer))), written.soft
    for row in range(2):
        real = written.mask[row]
        prompt = written.prompt.ids[row][written.prompt.mask[row]]
        weights = soft.weights[row][real].detach().requires_grad_()
        mixed = torch.einsum("tk,tkd->td", weights, table[soft.indices[row][real]])
        embeds = torch.cat([table[tokenizer.bos_token_id][None], table[prompt[1:]], mixed])[None]
        probability = torch.softmax(reward.model(inputs_embeds=embeds).logits, -1)[0, 1]
        (direct,) = torch.autograd.grad(probability, weights)
        assert float(probability) == pytest.approx(float(values[row]), rel=exact)
        centred = direct - direct[:, :1]  # ours is the change against the token itself
        assert (found[row][real] - centred).norm() < exact * centred.norm()
        assert (found[row][~real] == 0).all()


@pytest.mark.parametrize("reads", [word_piece, bytes_alone])
def test_swapping_a_token_changes_the_score_as_the_gradient_says(reads):
    """Letters with spaces between: every swap keeps the segmentation.  Small embeddings, so that first order is all there is."""
    policy, tokenizer = bytes_alone(), reads()
    reward = reward_of(policy, tokenizer, words=1e-4)
    swaps = torch.tensor([policy.convert_tokens_to_ids(letter) for letter in "abtyo"])
    written = completions_of(policy, ["a t o", "y b a"], candidates=swaps)
    values, found = gradient_of(reward, written)
    for place in (0, 2, 4):
        for candidate, swap in enumerate(swaps.tolist()):
            ids = written.ids.clone()
            ids[:, place] = swap
            changed = reward.score(Completions(written.prompt, ids, written.mask, policy)) - values
            torch.testing.assert_close(found[:, place, candidate + 1], changed, rtol=2e-2, atol=1e-9)


def test_a_continuing_piece_is_pulled_as_one():
    """``act`` + ``ing``: the second token of the policy is compared with pieces that continue a word."""
    policy, tokenizer = bytes_alone(), word_piece()
    reward = reward_of(policy, tokenizer)
    written = completions_of(policy, ["acting", "at ing"], candidates=torch.tensor([policy.convert_tokens_to_ids("b")]))
    _, found = gradient_of(reward, written)
    assert torch.isfinite(found).all()
    assert (found[:, :, 0] == 0).all()  # a token in place of itself changes nothing


def test_scope_template_and_cut(caplog):
    policy, tokenizer = byte_level(), word_piece()
    alone = reward_of(policy, tokenizer, scope="completion")
    written = completions_of(policy, ["the acting was dull", "fine"])
    other = dataclasses.replace(written, prompt=completions_of(policy, ["x", "y"]).prompt[:2])
    assert torch.equal(alone.score(written), alone.score(other))
    full = alone.scoped("full")
    assert full.model is alone.model
    assert not torch.allclose(full.score(written), alone.score(written))
    asked = reward_of(policy, tokenizer, template="review: {prompt} | {completion} | good?")
    soft = completions_of(policy, ["the acting was dull", "fine"], candidates=torch.tensor([40, 41]))
    values, found = gradient_of(asked, soft)
    assert not torch.allclose(values, full.score(written))
    assert (found[0, :, 1:][soft.mask[0]].abs().sum(dim=-1) > 0).float().mean() > 0.8  # nearly every token is pulled somewhere
    short = reward_of(policy, tokenizer, max_length=9)
    _, cut = gradient_of(short, soft)
    assert "longer than the reward's 9 tokens" in caplog.text
    assert short.truncated >= 1
    assert (cut[0, -3:] == 0).all()  # what was cut off has no gradient


def test_grade_ste_gradient_through_another_vocabulary(model_folder):
    """The method's whole gradient, in the adjoint and token by token."""
    _, policy = make_policy(model_folder)
    reward = reward_of(policy.tokenizer, word_piece())
    batch = make_batch(policy)
    found = [gradient(make_grade(policy, reward=reward, kl_coef=0.1, backprop=how), batch) for how in ("adjoint", "sequential")]
    assert found[0].norm() > 0
    assert (found[0] - found[1]).norm() < 2e-6 * found[1].norm()


def test_soft_grade_is_refused(model_folder):
    _, policy = make_policy(model_folder)
    with pytest.raises(ValueError, match="mixtures of tokens forward, which have no text"):
        make_grade(policy, straight_through=False, reward=reward_of(policy.tokenizer, word_piece()))


def test_labels():
    names = {0: "neg", 1: "pos", 2: "mixed"}
    assert label_place(names, "mixed", "m") == 2
    assert label_place(names, 1, "m") == label_place(names, "1", "m") == 1
    assert label_place({0: "LABEL_0"}, None, "m") == 0
    assert label_place({0: "neg", 1: "pos"}, None, "m") == 1
    with pytest.raises(ValueError, match=r"reward.label=happy is no label of m: it has 0 neg, 1 pos, 2 mixed"):
        label_place(names, "happy", "m")
    with pytest.raises(ValueError, match=r"choose one with reward\.label"):
        label_place(names, None, "m")


OPTIONS = {"label": None, "output": "probability", "template": "{prompt}{completion}", "max_length": None, "scope": "full",
           "batch_size": 8, "revision": None, "trust_remote_code": False}  # fmt: skip


def test_folders_that_are_no_classifier(model_folder, tmp_path):
    base, policy = make_policy(model_folder, precision="fp32")
    inputs = RewardInputs(base, policy, None)
    folder = save_classifier(tmp_path / "classifier")
    assert sequence_classifier(inputs, path=str(folder), **OPTIONS)[1]["label"] == "positive"
    with pytest.raises(ValueError, match="is not a folder"):
        sequence_classifier(inputs, path=str(tmp_path / "nothing"), **OPTIONS)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="pickled"):
        sequence_classifier(inputs, path=str(folder), **OPTIONS)
    (folder / "tokenizer.json").unlink()
    (folder / "pytorch_model.bin").rename(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"no tokenizer\.json"):
        sequence_classifier(inputs, path=str(folder), **OPTIONS)


def test_a_run_with_another_vocabulary(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    folder = save_classifier(tmp_path / "classifier")
    results = run_small(tmp_path / "run", "reward=sequence_classifier", f"reward.path={folder}")
    assert results["steps"] == 2
    assert 0 < results["test"]["reward_mean"] < 1
    assert {"completion_reward_mean", "judge_mean"} <= results["test"].keys()
    assert results["reward_head"] == {"model": "classifier", "label": "positive", "output": "probability"}


def test_the_oracle_of_values_is_the_saved_model(tmp_path):
    """What is saved and loaded again scores the same: nothing of the reward lies outside of the folder."""
    folder = save_classifier(tmp_path / "classifier")
    again = DistilBertForSequenceClassification.from_pretrained(folder)
    assert again.config.id2label == {0: "negative", 1: "positive"}


def test_weights_in_common_with_the_policys_base_are_held_once(model_folder, tmp_path):
    """A classifier that somebody made from the base by training a head alone: its scores are the same, its memory is the head's."""
    from transformers import AutoModelForSequenceClassification

    from grade_lightning.models.sharing import share_frozen

    _, policy = make_policy(model_folder, precision="fp32")
    model = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2).eval().requires_grad_(False)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = model(input_ids=ids).logits
    total = sum(weight.numel() * 4 for weight in model.parameters())
    saved = share_frozen(model, policy.lm)
    assert saved == total - model.score.weight.numel() * 4
    assert torch.equal(model(input_ids=ids).logits, before)
    with policy.merged():  # adapters added into the policy's weights change no reward
        assert torch.equal(model(input_ids=ids).logits, before)
    assert model.get_input_embeddings().weight.data_ptr() == policy.embedding.data_ptr()
    other = AutoModelForSequenceClassification.from_pretrained(model_folder, num_labels=2).requires_grad_(False)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight += 1
    assert share_frozen(other, policy.lm) == saved - other.model.layers[0].mlp.up_proj.weight.numel() * 4
