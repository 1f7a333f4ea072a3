"""The reward: soft tokens and ids agree, the head learns, the cache works once."""

import json
import multiprocessing
import time

import pytest
import torch

from grade_lightning.data.corpus import make_splits
from grade_lightning.data.synthetic import SyntheticSource
from grade_lightning.estimators import SoftTokens
from grade_lightning.models.base import load_base
from grade_lightning.models.cache import make_once
from grade_lightning.rewards.base import Completions
from grade_lightning.rewards.head import RewardHead, mean_pool
from grade_lightning.rewards.head_training import HeadSettings, features, fit_head, reward_head, rows_of
from tests.conftest import make_batch, make_policy, make_reward


@pytest.mark.parametrize("scope", ["full", "completion"])
@pytest.mark.parametrize("folder", ["model_folder", "gpt2_folder"])
def test_one_hot_soft_tokens_score_like_ids(request, folder, scope):
    _, policy = make_policy(request.getfixturevalue(folder))
    reward, batch = make_reward(policy, scope=scope), make_batch(policy)
    torch.manual_seed(0)
    ids = torch.randint(2, 320, (4, 7))
    mask = torch.ones(4, 7, dtype=torch.bool)
    mask[1, 4:] = False
    indices = torch.stack([ids, (ids + 1) % 320, (ids + 2) % 320], dim=-1)
    weights = torch.zeros(4, 7, 3, dtype=torch.float64)
    weights[..., 0] = 1
    hard = Completions(batch, ids, mask, policy.tokenizer)
    soft = Completions(batch, ids, mask, policy.tokenizer, SoftTokens(indices, weights, ids))
    torch.testing.assert_close(reward.score(soft), reward.score(hard), rtol=1e-5, atol=1e-6)


def test_score_equals_the_plain_model(model_folder):
    """One review at a time, without padding, through the untouched base."""
    _, policy = make_policy(model_folder)
    reward, batch = make_reward(policy), make_batch(policy)
    base = load_base(str(model_folder), precision="fp64").model
    torch.manual_seed(0)
    ids = torch.randint(2, 320, (4, 6))
    mask = torch.arange(6) < torch.tensor([[6], [3], [5], [1]])
    found = reward.score(Completions(batch, ids, mask, policy.tokenizer))
    for row in range(4):
        whole = torch.cat([batch.ids[row][batch.mask[row]], ids[row][mask[row]]])
        hidden = base.model(input_ids=whole[None]).last_hidden_state[0].double().mean(0)
        expected = torch.softmax(reward.head(hidden), -1)[1]
        assert float(found[row]) == pytest.approx(float(expected), rel=1e-5)


def test_head_has_the_papers_shape():
    head = RewardHead(12)
    assert [tuple(weight.shape) for weight in head.state_dict().values()] == [(12, 12), (12,), (2, 12), (2,)]
    assert isinstance(head.net[1], torch.nn.Tanh)


def test_mean_pool_ignores_padding():
    hidden = torch.randn(2, 4, 3)
    mask = torch.tensor([[False, True, True, False], [True, True, True, True]])
    hidden[0, 0] = torch.nan
    torch.testing.assert_close(mean_pool(hidden, mask)[0], hidden[0, 1:3].mean(0))


def test_head_learns_what_is_linearly_there():
    torch.manual_seed(0)
    inputs = torch.randn(400, 8)
    labels = (inputs @ torch.randn(8) > 0).long()
    head = fit_head(inputs[:300], labels[:300], HeadSettings(lr=1e-2, epochs=20))
    assert (head(inputs[300:]).argmax(-1) == labels[300:]).float().mean() > 0.9


def test_features_do_not_depend_on_batching(model_folder, splits):
    base = load_base(str(model_folder))
    texts = splits.reward.texts[:10]
    together = features(base, texts, 64, description="x")
    alone = features(base, texts, 64, description="x", batch_tokens=1)
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)


def test_useless_head_is_refused_and_cached_with_its_report(model_folder, splits, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path))
    settings = HeadSettings(lr=1e-9, epochs=1, heldout_rows=30)
    with pytest.raises(ValueError, match=r"right on only .* of held-out openings.*reward.head.epochs"):
        reward_head(load_base(str(model_folder)), splits, settings)
    report = json.loads(next((tmp_path / "reward-head").glob("*/report.json")).read_text())
    assert report["heldout_rows"] == 30


def test_head_is_trained_once_and_loaded_again(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path))
    monkeypatch.setattr("grade_lightning.rewards.head_training.MINIMUM_ACCURACY", 0.0)
    splits = make_splits(SyntheticSource(80, 10, 10).load(), reward_rows=40, policy_rows=10, validation_rows=10)
    base, settings = load_base(str(model_folder)), HeadSettings(lr=1e-3, epochs=2, heldout_rows=10)
    first, report = reward_head(base, splits, settings)
    monkeypatch.setattr("grade_lightning.rewards.head_training.fit_head", None)  # would fail if called again
    second, again = reward_head(base, splits, settings)
    assert report == again
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    with pytest.raises(TypeError):
        reward_head(base, splits, HeadSettings(lr=2e-3, epochs=2, heldout_rows=10))  # other settings, another head


def test_a_head_learns_from_the_rows_that_it_is_told(splits):
    """A proxy knows the first rows of the reward split, a judge of proxies every labelled row but the held-out ones."""
    few, heldout = rows_of(splits, HeadSettings(rows=7, heldout_rows=10))
    everything, same = rows_of(splits, HeadSettings(learn_from="labelled", heldout_rows=10))
    assert few.texts == list(splits.reward.texts[:7])
    assert few.labels.tolist() == splits.reward.labels[:7].tolist()
    assert heldout.texts == same.texts == list(splits.unused.texts[:10])
    parts = (splits.reward, splits.policy, splits.validation, splits.test, splits.unused)
    assert len(everything) == sum(map(len, parts)) - 10
    assert {*everything.texts, *heldout.texts} == {text for part in parts for text in part.texts}
    with pytest.raises(ValueError, match=r"data\.reward_rows"):
        rows_of(splits, HeadSettings(rows=1_000_000))


def _slow_make(cache, log):
    import os

    os.environ["GRADE_CACHE"] = cache

    def make(folder):
        with open(log, "a") as stream:
            stream.write("made\n")
        time.sleep(0.5)
        (folder / "thing").write_text("x")

    make_once("test", {"a": 1}, make)


@pytest.mark.slow
def test_two_processes_make_a_thing_once(tmp_path):
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_slow_make, args=(str(tmp_path), str(tmp_path / "log"))) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert (tmp_path / "log").read_text() == "made\n"


def test_failed_making_leaves_nothing_behind(tmp_path, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path))

    def fail(folder):
        (folder / "half").write_text("x")
        raise RuntimeError("stopped")

    with pytest.raises(RuntimeError, match="stopped"):
        make_once("test", {"a": 1}, fail)
    folder = make_once("test", {"a": 1}, lambda folder: (folder / "whole").write_text("x"))
    assert sorted(file.name for file in folder.iterdir()) == ["ingredients.json", "whole"]


@pytest.mark.parametrize("damage", ["whole", "ingredients.json"])
@pytest.mark.parametrize("content", [None, "", "y", "null"])
def test_what_was_damaged_in_the_cache_is_made_again(damage, content, tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path))
    made = make_once("test", {"a": 1}, lambda folder: (folder / "whole").write_text("x"))
    if content is None:
        (made / damage).unlink()
    else:
        (made / damage).write_text(content)
    assert make_once("test", {"a": 1}, lambda folder: (folder / "whole").write_text("x")) == made
    assert (made / "whole").read_text() == "x"
    assert "damaged or removed: making it again" in caplog.text
    caplog.clear()
    make_once("test", {"a": 1}, lambda folder: pytest.fail("it is there"))
    assert not caplog.text


def test_what_an_earlier_version_cached_is_used(tmp_path, monkeypatch):
    """It noted no digests."""
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path))
    made = make_once("test", {"a": 1}, lambda folder: (folder / "whole").write_text("x"))
    (made / "ingredients.json").write_text('{"a": 1}')
    (made / "whole").write_text("y")
    assert make_once("test", {"a": 1}, lambda folder: pytest.fail("it is there")) == made


def test_unwritable_cache_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("x")
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path / "file"))
    with pytest.raises(ValueError, match="GRADE_CACHE"):
        make_once("test", {}, lambda folder: None)
