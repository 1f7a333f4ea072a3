"""Sums of rewards, another LM's likelihood, and judges of any kind."""

from __future__ import annotations

import csv
import json

import pytest
import torch

from grade_lightning.chain.direct import direct_gradient
from grade_lightning.chain.parallel import completions_of
from grade_lightning.chain.sequential import RelaxedRollout
from grade_lightning.models.base import load_base
from grade_lightning.rewards.base import scored
from grade_lightning.rewards.function import FunctionReward
from grade_lightning.rewards.likelihood import LikelihoodReward
from grade_lightning.rewards.sum import SumReward
from grade_lightning.rewards.surrogate import SurrogateReward
from grade_lightning.settings import SettingsError
from grade_lightning.settings.reward import SumSettings
from tests.conftest import make_policy, make_reward
from tests.entry import run_small
from tests.models.families import save_family
from tests.rewards.test_surrogate import rollout_of, vowels


def test_value_gradient_and_facts_are_those_of_the_parts(model_folder):
    _, policy = make_policy(model_folder)
    parts = {"whole": make_reward(policy), "own": make_reward(policy, scope="completion")}
    both = SumReward(parts, {"whole": 2.0, "own": -0.5})
    from tests.conftest import make_context

    context = make_context(policy, both)
    rollout = rollout_of(policy, context, 0, 1)
    hidden = torch.zeros(*rollout.mask.shape, policy.embedding.shape[1], dtype=torch.float64)
    weights = torch.nn.functional.one_hot(rollout.hard, context.rollout.top_k).double()
    relaxed = RelaxedRollout(weights, hidden, torch.zeros_like(weights))
    found = {
        name: direct_gradient(policy, r, rollout, relaxed, score_weight=1.0, kl_weight=0.0) for name, r in (*parts.items(), ("sum", both))
    }
    expected = 2.0 * found["whole"].weights - 0.5 * found["own"].weights
    torch.testing.assert_close(found["sum"].weights, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(found["sum"].scored.parts["own"], found["own"].scored.scores)
    assert both.range == (-0.5, 2.0)
    assert both.differentiable
    assert not SumReward({"f": FunctionReward(vowels, "f")}, {"f": 1.0}).differentiable
    assert SumReward({"f": FunctionReward(vowels, "f")}, {"f": 1.0}).range == (None, None)


def test_sums_that_cannot_be_are_refused():
    with pytest.raises(SettingsError, match="has no parts"):
        SumSettings()
    with pytest.raises(SettingsError, match="reward_seconds is a measurement of every run"):
        SumSettings(parts={"seconds": object()})
    with pytest.raises(SettingsError, match="names b, which is no part"):
        SumSettings(parts={"a": object()}, weights={"b": 1.0})


@pytest.mark.parametrize("name", [None, "Granite", "Gemma2"])
def test_likelihood_is_transformers_own_loss(name, model_folder, gpt2_folder, tmp_path, tokenizer):
    """One text at a time through the model's own loss, the prompt's tokens left out of it; of models that change logits, too."""
    _, policy = make_policy(model_folder)
    other = load_base(str(gpt2_folder if name is None else save_family(name, tmp_path, tokenizer)))
    from tests.conftest import make_context

    rollout = rollout_of(policy, make_context(policy), 0, 1)
    completions = completions_of(policy, rollout)
    found = LikelihoodReward(other.model, other.tokenizer).score(completions)
    for value, prompt, completion in zip(found.tolist(), completions.prompt_texts, completions.texts, strict=True):
        encoded = other.tokenizer(prompt + completion, return_offsets_mapping=True, add_special_tokens=False)
        ids = [other.tokenizer.eos_token_id, *encoded["input_ids"]]
        own = [False, *(end > len(prompt) for _, end in encoded["offset_mapping"])]
        labels = [index if mine else -100 for index, mine in zip(ids, own, strict=True)]
        with torch.no_grad():
            loss = other.model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        assert value == pytest.approx(-float(loss), rel=1e-5)


def test_likelihood_of_texts_that_are_long_or_empty(gpt2_folder, caplog):
    """Never more tokens than positions, always the completion; without text the probability of an end."""
    other = load_base(str(gpt2_folder))
    judge = LikelihoodReward(other.model, other.tokenizer, max_length=4096)
    assert judge.max_length == 128
    long, short = "word " * 400, "short"
    texts = [(long, "the end"), (short, "the end"), (short, "")]
    found = judge._of(texts)
    assert torch.isfinite(found).all()
    assert (found < 0).all()
    assert judge.truncated == 1
    assert "its beginning is left out" in caplog.text
    ids = torch.tensor([[other.tokenizer.eos_token_id, *other.tokenizer(short, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        ending = other.model(input_ids=ids).logits[0, -1].log_softmax(dim=-1)[other.tokenizer.eos_token_id]
    assert float(found[2]) == pytest.approx(float(ending), rel=1e-5)


def test_parts_of_a_sum_behind_a_surrogate_are_logged(model_folder):
    _, policy = make_policy(model_folder)
    inner = SumReward({"a": FunctionReward(vowels, "a"), "b": FunctionReward(vowels, "b")}, {"a": 1.0, "b": 2.0})
    reward = SurrogateReward(policy, inner, capacity=16, least=4)
    from tests.conftest import make_context

    rollout = rollout_of(policy, make_context(policy, reward), 0, 1)
    found = scored(reward, completions_of(policy, rollout))
    torch.testing.assert_close(found.scores, 3 * found.parts["a"])
    outer = scored(SumReward({"x": inner}, {"x": 1.0}), completions_of(policy, rollout))
    assert set(outer.parts) == {"x", "x_a", "x_b"}


def test_parts_and_judges_are_measured_everywhere(tmp_path, shared_cache, monkeypatch):
    """A sum of two functions is maximised; a judge of the user's own is measured at each validation, and decides which is the best."""
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    name = "tests.rewards.test_surrogate:vowels"
    options = [
        "method=rloo", "reward=sum", "+reward@reward.parts.first=function", f"reward.parts.first.function={name}",
        "+reward@reward.parts.second=function", f"reward.parts.second.function={name}", "+reward.weights.second=3.0",
        "+reward@evaluation.judges.other=function", f"evaluation.judges.other.function={name}", "evaluation.best=other",
        "evaluation.validate_every=1",
    ]  # fmt: skip
    results = run_small(tmp_path / "run", *options)
    test = results["test"]
    assert test["reward_mean"] == pytest.approx(4 * test["reward_first_mean"], rel=1e-5)
    assert test["judge_other_mean"] == pytest.approx(test["reward_first_mean"], rel=1e-5)
    assert len(test["per_prompt"]["judge_other"]) == test["n"]
    assert results["reward_head"]["weights"] == {"first": 1.0, "second": 3.0}
    assert set(results["judges"]) == {"classifier", "other"}
    best = max(results["validation"], key=lambda v: v["judge_other_mean"])
    assert results["best_validation"] == {key: best[key] for key in ("step", "reward_mean", "judge_other_mean")}
    rows = list(csv.DictReader((tmp_path / "run" / "metrics.csv").open()))
    assert all(row["val/judge_other_mean"] and row["val/judge_mean"] and row["val/perplexity"] for row in rows)
    assert all(float(row["train/reward_seconds"]) > 0 for row in rows)
    assert float(rows[0]["train/reward"]) == pytest.approx(4 * float(rows[0]["train/reward_second"]), rel=1e-5)
    sample = json.loads((tmp_path / "run" / "samples.jsonl").read_text().splitlines()[0])
    assert {"reward_first", "judge", "judge_other", "perplexity"} <= sample.keys()


def test_best_by_a_judge_that_is_not_there(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    with pytest.raises(ValueError, match="this run has no such judge: use one of reward, classifier"):
        run_small(tmp_path / "run", "evaluation.best=nobody")
