"""Functions of texts as rewards, called as TRL calls its own."""

from __future__ import annotations

import asyncio
import json

import pytest
import torch

from grade_lightning.methods import RLOOGradient
from grade_lightning.rewards.function import FunctionReward, load_function, source_fingerprint
from tests.conftest import make_batch, make_policy
from tests.entry import run_small
from tests.methods.harness import gradient, make_grade, make_module
from tests.rewards.test_sequence_classifier import completions_of
from tests.rewards.vocabularies import byte_level


def length(completions, **kwargs):
    return [float(len(text)) for text in completions]


async def later(completions, prompts):
    await asyncio.sleep(0)
    return [len(a) - len(b) for a, b in zip(completions, prompts, strict=True)]


def every_argument(prompts, completions, completion_ids):
    return torch.tensor([len(p) + len(c) + len(ids) for p, c, ids in zip(prompts, completions, completion_ids, strict=True)])


WRITTEN = ["the acting was dull", "fine 😀"]


@pytest.fixture(scope="module")
def written():
    return completions_of(byte_level(), WRITTEN)


def reward_of(function) -> FunctionReward:
    return FunctionReward(function, getattr(function, "__name__", "it"))


def test_texts_go_in_and_numbers_come_out(written):
    assert reward_of(length).score(written).tolist() == [len(text) for text in WRITTEN]
    prompts = written.prompt_texts
    assert reward_of(later).score(written).tolist() == [len(a) - len(b) for a, b in zip(WRITTEN, prompts, strict=True)]
    ids = [len(row) for row in written.token_ids]
    assert reward_of(every_argument).score(written).tolist() == [len(a) + len(b) + n for a, b, n in zip(WRITTEN, prompts, ids, strict=True)]


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda completions: [1.0], "returned 1 numbers for 2 completions"),
        (lambda completions: [1.0, float("nan")], r"returned nan, no finite number, for the completion 'fine 😀'"),
        (lambda completions: ["good", 1.0], r"returned 'good', no finite number, for the completion 'the acting was dull'"),
        (lambda completions: None, "returned a NoneType"),
        (lambda completions: "12", "returned a str"),
        (lambda completions: [1 / (len(text) - 6) for text in completions], r"failed on the completion 'fine 😀': ZeroDivisionError"),
        (lambda completions: [1 / (2 - len(completions))], "on a batch, though on none of its completions alone"),
        (lambda completions, missing: [0, 0], "needs missing"),
    ],
)
def test_what_goes_wrong_is_named_with_its_completion(written, function, message):
    with pytest.raises(ValueError, match=message):
        reward_of(function).score(written)


def test_names_that_are_no_function(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_test_function.py").write_text("value = 3\ndef good(completions): return [1.0] * len(completions)\n")
    assert load_function("mine_of_test_function:good")(completions=["a"]) == [1.0]
    wrong = {
        "nocolon": "no package.module:name", "mine_of_test_function:bad": "cannot be imported", "no.such.module:f": "cannot be imported",
        "mine_of_test_function:value": "is a int, no function",
    }  # fmt: skip
    for name, message in wrong.items():
        with pytest.raises(ValueError, match=message):
            load_function(name)


def test_the_source_is_part_of_what_a_run_is(tmp_path, monkeypatch):
    assert source_fingerprint(length) == source_fingerprint(every_argument) != source_fingerprint(load_function)
    assert source_fingerprint(len) is None


def test_trls_own_reward_functions_work_unchanged(written):
    """An oracle of how they are called."""
    rewards = pytest.importorskip(
        "trl.rewards", reason="TRL is installed by `make bench`: its functions are an oracle of the calling convention"
    )
    found = reward_of(rewards.get_soft_overlong_punishment(max_completion_len=8, soft_punish_cache=2)).score(written)
    assert found.tolist() == rewards.get_soft_overlong_punishment(8, 2)(completion_ids=written.token_ids)


def test_a_lexicon_is_a_reward():
    """VADER, which nobody here wrote: the scores are those it gives the texts one by one."""
    vader = pytest.importorskip("vaderSentiment.vaderSentiment", reason="VADER comes with the extra `dev`")
    texts = ["what a wonderful film", "dull :("]
    found = FunctionReward(load_function("experiments.rewards.vader:compound"), "vader").score(completions_of(byte_level(), texts))
    assert found.tolist() == pytest.approx([vader.SentimentIntensityAnalyzer().polarity_scores(t)["compound"] for t in texts])
    assert found[0] > 0 > found[1]


def test_policy_gradients_train_on_it_and_relaxed_methods_refuse(model_folder):
    _, policy = make_policy(model_folder)
    assert (
        gradient(make_module(RLOOGradient, policy, {"completions_per_prompt": 2}, reward=reward_of(length)), make_batch(policy)).norm() > 0
    )
    with pytest.raises(ValueError, match=r"this reward has no gradient: use a policy gradient \(method=rloo\), or a reward that is"):
        make_grade(policy, reward=reward_of(length))


NAME = "reward.function=tests.rewards.test_function:length"


def test_a_run_with_a_function(tmp_path, shared_cache, monkeypatch):
    """Rewards beyond 1, no scope, no head: evaluation, records and the report take them."""
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    results = run_small(tmp_path / "run", "method=rloo", "reward=function", NAME)
    assert results["test"]["reward_mean"] > 1
    assert "completion_reward_mean" not in results["test"]
    assert results["reward_fingerprint"] == source_fingerprint(length)
    assert json.loads((tmp_path / "run" / "environment.json").read_text())["inputs"]["reward"] == results["reward_fingerprint"]
    with pytest.raises(ValueError, match="has no gradient"):
        run_small(tmp_path / "relaxed", "reward=function", NAME)


def test_an_edited_function_is_another_reward(tmp_path, shared_cache, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "edited_of_test_function.py"
    file.write_text("def f(completions, **_): return [float(len(c)) for c in completions]\n")
    options = ["method=rloo", "reward=function", "reward.function=edited_of_test_function:f", "evaluation.test=false"]
    run_small(tmp_path / "run", *options)
    assert run_small(tmp_path / "run", *options)["steps"] == 2  # finished: nothing to do
    file.write_text("def f(completions, **_): return [-float(len(c)) for c in completions]\n")
    with pytest.raises(ValueError, match="holds a finished run of another reward"):
        run_small(tmp_path / "run", *options)
