"""Rewards learned from preferences and scores, against the world that made them; files that cannot be used."""

from __future__ import annotations

import json
import math

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import TensorDataset

from grade_lightning.data.rated import Pair, heldout_split, read_rows
from grade_lightning.rewards.base import RewardInputs
from grade_lightning.rewards.identity import fingerprint_of_reward
from grade_lightning.rewards.preference import preference
from grade_lightning.settings.reward import PreferenceHeadSettings, PreferenceSettings
from tests.conftest import make_policy
from tests.entry import run_small

WORDS = ["the", "film", "was", "long", "and", "its", "music", "old", "while", "people", "sat", "down", "to", "watch", "how", "it", "ends"]


def _rows(n: int, rng: np.random.Generator) -> list[dict[str, object]]:
    """The chosen text says "wonderful" where the rejected says "dull", among the same kinds of words."""
    rows = []
    for number in range(n):
        texts = [" ".join([*rng.choice(WORDS, 5), word, *rng.choice(WORDS, 3)]) for word in ("wonderful", "dull")]
        rows.append({"prompt": f"Review {number}: ", "chosen": texts[0], "rejected": texts[1]})
    return rows


def write_pairs(path) -> str:
    """A file with 300 of them."""
    return write(path, _rows(300, np.random.default_rng(0)))


@pytest.fixture
def rows():
    return _rows(300, np.random.default_rng(0))


@pytest.fixture
def lent(model_folder, tmp_path, monkeypatch):
    monkeypatch.setenv("GRADE_CACHE", str(tmp_path / "cache"))
    base, policy = make_policy(model_folder, precision="fp32")
    return RewardInputs(base, policy, None)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def made(lent, path, objective="pairs", **head):
    settings = PreferenceSettings(path=path, objective=objective, head=PreferenceHeadSettings(**head))
    values = {name: getattr(settings, name) for name in ("path", "objective", "head", "scope", "hub_split", "revision")}
    return preference(lent, **values)


def test_pairs_are_learned_and_judged_on_held_out_prompts(lent, rows, tmp_path):
    reward, report = made(lent, write(tmp_path / "pairs.jsonl", rows), epochs=30, lr=3e-3)
    assert report["pairs"] + report["heldout_pairs"] == 300
    assert report["heldout_pair_accuracy"] > 0.7
    assert 0 <= report["heldout_calibration_error"] < 0.3
    assert report["heldout_log_loss"] < math.log(2)
    assert reward.differentiable
    assert reward.soft
    assert reward.range == (None, None)


def test_scores_are_learned(lent, rows, tmp_path):
    rated = [
        {"prompt": r["prompt"], "completion": r[side], "score": value} for r in rows for side, value in (("chosen", 3), ("rejected", -1))
    ]
    _, report = made(lent, write(tmp_path / "rated.jsonl", rated), "scores", epochs=30, lr=3e-3)
    assert report["heldout_r2"] > 0.15
    assert report["heldout_spearman"] > 0.3


def test_scores_of_any_unit_are_learned_alike(lent, rows, tmp_path):
    found = []
    for level, scale in ((0, 1), (50, 10)):
        rated = [
            {"completion": r["prompt"] + r[side], "score": level + scale * value}
            for r in rows
            for side, value in (("chosen", 1), ("rejected", -1))
        ]
        found.append(made(lent, write(tmp_path / f"{level}.jsonl", rated), "scores", epochs=20)[1]["heldout_r2"])
    assert found[1] == pytest.approx(found[0], abs=0.02)


def test_chats_are_read_as_prompts_are(lent, rows):
    """The template writes the special tokens: the tokenizer adds none again; a template that refuses is named."""
    lent.base.tokenizer.chat_template = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    pair = Pair([{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "good"}], "bad")
    assert pair.is_chat
    assert pair.texts(lent.base.tokenizer) == ("<user>Hi<assistant>good", "<user>Hi<assistant>bad")
    lent.base.tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(ValueError, match="chat template of the model refuses"):
        pair.texts(lent.base.tokenizer)
    lent.base.tokenizer.chat_template = None


def test_parquet_and_json_lines_are_the_same(rows, tmp_path):
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "pairs.parquet")
    lines = write(tmp_path / "pairs.jsonl", rows)
    assert read_rows(lines, "pairs") == read_rows(str(tmp_path / "pairs.parquet"), "pairs")
    prints = [fingerprint_of_reward(PreferenceSettings(path=path)) for path in (lines, str(tmp_path / "pairs.parquet"))]
    assert prints[0] == prints[1]
    write(tmp_path / "pairs.jsonl", rows[::-1])
    assert fingerprint_of_reward(PreferenceSettings(path=lines)) != prints[0]


def test_pairs_of_one_prompt_are_held_out_together(rows, tmp_path):
    doubled = [{**row, "prompt": f"Review {place // 3}: "} for place, row in enumerate(rows)]
    pairs = read_rows(write(tmp_path / "pairs.jsonl", doubled), "pairs")
    learn, held = heldout_split(pairs, 0.2, 0)
    assert not {pairs[row].prompt for row in learn.tolist()} & {pairs[row].prompt for row in held.tolist()}
    assert len(TensorDataset(held)) == 60
    assert sorted([*learn.tolist(), *held.tolist()]) == list(range(300))


def test_a_coin_is_refused(lent, rows, tmp_path):
    rng = np.random.default_rng(1)
    tossed = [row if rng.random() < 0.5 else {**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in rows]
    with pytest.raises(ValueError, match="not above chance: give more rows"):
        made(lent, write(tmp_path / "pairs.jsonl", tossed))


def test_its_mean_over_what_it_learned_from_is_zero(lent, rows, tmp_path):
    reward, _ = made(lent, write(tmp_path / "pairs.jsonl", rows), epochs=30, lr=3e-3)
    from grade_lightning.rewards.head_training import features

    pairs = read_rows(str(tmp_path / "pairs.jsonl"), "pairs")
    learn, _ = heldout_split(pairs, 0.1, 0)
    texts = [text for row in learn.tolist() for text in pairs[row].texts(lent.base.tokenizer)]
    with torch.no_grad(), lent.policy.reference():
        scores = reward.head(features(lent.base, texts, 256, description="again"))[:, 0]
    assert float(scores.mean()) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda rows: [], "is empty"),
        (lambda rows: rows[:5], "need at least 20"),
        (lambda rows: [{**row, "prompt": "one"} for row in rows], "1 different prompts"),
        (lambda rows: [{"prompt": r["prompt"], "chosen": r["chosen"]} for r in rows], "has no column rejected"),
        (lambda rows: [*rows[:30], {**rows[30], "chosen": 7}], "line 31: the column chosen holds 7"),
        (lambda rows: [*rows[:30], {**rows[30], "chosen": rows[30]["rejected"]}], "line 31: chosen and rejected are the same"),
    ],
)
def test_bad_pairs_are_named(rows, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_rows(write(tmp_path / "pairs.jsonl", change(rows)), "pairs")


def test_bad_scores_are_named(rows, tmp_path):
    rated = [{"completion": row["chosen"], "score": "high"} for row in rows]
    with pytest.raises(ValueError, match="line 1: the column score holds 'high', no finite number"):
        read_rows(write(tmp_path / "rated.jsonl", rated), "scores")


def test_a_run_of_preferences(tmp_path, shared_cache, monkeypatch, rows):
    """No labels are needed: the only data are pairs and prompts."""
    monkeypatch.setenv("GRADE_CACHE", shared_cache)
    path = write(tmp_path / "pairs.jsonl", rows)
    options = ["reward=preference", f"reward.path={path}", "reward.head.epochs=30", "reward.head.lr=3e-3"]
    results = run_small(tmp_path / "run", *options, "method=grade", "evaluation.test_prompts=8")
    assert results["reward_head"]["heldout_pair_accuracy"] > 0.7
    assert "completion_reward_mean" in results["test"]
    with pytest.raises(ValueError, match="no such file or folder"):
        run_small(tmp_path / "other", "reward=preference", f"reward.path={tmp_path / 'none.jsonl'}")
