"""Reports from run folders written here by hand, whole ones and broken ones."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.stats import norm, sem, t

from grade_lightning.report import main
from grade_lightning.reporting.cautions import mixed
from grade_lightning.reporting.read import read_metrics, read_runs
from grade_lightning.reporting.significance import mean_interval
from grade_lightning.reporting.table1 import paired_lift, table1
from grade_lightning.reporting.variants import group, repeated

PROMPTS = list(range(100, 140))
PAPER = {"data": "parquet", "protocol": "paper"}  # IMDB as the paper has it


def write_run(root: Path, method: str, seed: int, *, shift: float = 0.2, **changes) -> Path:
    folder = root / f"{method}-{seed}"
    folder.mkdir(parents=True)
    generator = np.random.default_rng(seed)
    before = generator.uniform(0.2, 0.6, len(PROMPTS))
    after = before + shift + 0.01 * generator.standard_normal(len(PROMPTS))

    def split(rewards):
        return {"reward_mean": float(rewards.mean()), "reward_std": float(rewards.std()), "n": len(rewards), "kl_mean": 0.5,
                "per_prompt": {"prompt_id": PROMPTS, "reward": rewards.tolist()}}  # fmt: skip

    results = {
        "method": method, "seed": seed, "protocol": "controlled", "model": "tiny", "data": "synthetic", "steps": 3,
        "initial": split(before), "test": split(after), "validation": [{"step": 0, "reward_mean": 0.4, "reward_std": 0.1, "n": 5}],
        "best_validation": {"step": 3, "reward_mean": 0.7},
    }  # fmt: skip
    results.update(changes)
    (folder / "results.json").write_text(json.dumps({key: value for key, value in results.items() if value is not None}))
    rows = ["step,train/reward,train/loss,train/kl,train/grad_norm,train/grad_norm_tensor_std"]
    rows += [f"{step},0.{step},-0.{step},0.1,1.0,{step}.5" for step in (1, 2, 3)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    for name, text in (("samples.jsonl", ""), ("config.yaml", f"seed: {seed}\n"), ("environment.json", "{}")):
        (folder / name).write_text(text)
    return folder


def test_a_setting_that_came_with_a_later_version_is_no_difference(tmp_path):
    """Seeds 1 and 2 do not know ``late``; a known setting with another value, or nothing known at all, stays a row of its own."""
    for seed, text in enumerate(("lr: 1", "lr: 1", "lr: 1\nlate: 0", "lr: 2\nlate: 0", ""), start=1):
        folder = write_run(tmp_path, "grade_ste", seed, variant_hash=f"hash{seed > 2}{seed > 3}{seed > 4}")
        (folder / "config.yaml").write_text(f"seed: {seed}\n{text}\nkl_coef: 0.1\n" if text else "{}")
    variants = group(read_runs(tmp_path)[0])
    assert sorted([run.seed for run in variant.runs] for variant in variants) == [[1, 2, 3], [4], [5]]
    assert any("settings late: an earlier version" in warning for warning in repeated(variants))


def test_a_setting_that_earlier_versions_could_not_choose_has_the_value_they_had(tmp_path):
    """Seed 1 is of a version that had AdamW alone: it belongs to AdamW's runs, not to SGD's, whichever of them there are."""
    texts = ("", "optimizer:\n  name: sgd\n", "optimizer:\n  name: adamw\n")
    folders = []
    for seed, text in enumerate(texts, start=1):
        folders.append(write_run(tmp_path, "rloo", seed, variant_hash="sgd" if seed == 2 else "adamw"))
        (folders[-1] / "config.yaml").write_text(f"seed: {seed}\nkl_coef: 0.1\n{text}")
    assert sorted([run.seed for run in variant.runs] for variant in group(read_runs(tmp_path)[0])) == [[1, 3], [2]]
    shutil.rmtree(folders[2])
    assert sorted([run.seed for run in variant.runs] for variant in group(read_runs(tmp_path)[0])) == [[1], [2]]


def test_table1_by_hand(tmp_path):
    for seed in (1, 2, 3):
        write_run(tmp_path, "grade_ste", seed, **PAPER)
    write_run(tmp_path, "rloo", 1, shift=0.0, **PAPER)
    runs, warnings = read_runs(tmp_path)
    assert warnings == []
    initial, ste, rloo = table1(group(runs)).rows
    means = [json.loads((tmp_path / f"grade_ste-{seed}" / "results.json").read_text())["test"]["reward_mean"] for seed in (1, 2, 3)]
    assert ste["test"].mean == pytest.approx(sum(means) / 3)
    expected = t.interval(0.95, 2, loc=np.mean(means), scale=sem(means))
    assert ste["test"][1:] == pytest.approx(expected)
    assert ste["grad_norm_spread"] == pytest.approx((1.5 + 2.5 + 3.5) / 3)
    assert ste["gap"] == pytest.approx(0.7 - sum(means) / 3)
    assert ste["lift"].low > 0
    assert ste["lift"].mean == pytest.approx(0.2, abs=0.01)
    assert rloo["lift"].low < 0 < rloo["lift"].high
    assert (ste["paper_test"], ste["paper_gap"], "paper_test" in rloo) == ("0.763 ± 0.344", -0.077, False)
    assert initial["seeds"] == 3


def test_lift_pairs_by_prompt_not_by_place(tmp_path):
    folder = write_run(tmp_path, "ppo", 1, shift=0.1)
    results = json.loads((folder / "results.json").read_text())
    kept = results["test"]["per_prompt"]
    results["test"]["per_prompt"] = {"prompt_id": kept["prompt_id"][::-1], "reward": kept["reward"][::-1]}
    (folder / "results.json").write_text(json.dumps(results))
    found = paired_lift(read_runs(tmp_path)[0])
    assert found.high - found.low < 0.02


def test_bootstrap_interval_against_the_normal_one():
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = mean_interval(values)
    half = norm.ppf(0.975) * values.std(ddof=1) / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert mean_interval([0.5, 0.5]).low == 0.5


def test_command_writes_every_format(tmp_path, capsys):
    write_run(tmp_path / "runs", "grade", 1)
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    assert "| GRADE |" in capsys.readouterr().out
    assert r"\toprule" in (tmp_path / "out" / "table1.tex").read_text()
    rows = list(csv.DictReader((tmp_path / "out" / "table1.csv").open()))
    assert [row["method"] for row in rows] == ["initial policy", "GRADE"]
    written = json.loads((tmp_path / "out" / "report.json").read_text())
    assert written["table1"][1]["test"]["mean"] == float(rows[1]["test"])


@pytest.mark.parametrize("missing", ["initial", "test"])
def test_optional_parts_may_be_missing(tmp_path, missing):
    write_run(tmp_path, "grade", 1, **{missing: None})
    assert main([str(tmp_path)]) == 0


def test_null_std_is_shown_as_nothing(tmp_path):
    folder = write_run(tmp_path, "grade", 1)
    results = json.loads((folder / "results.json").read_text())
    results["test"]["reward_std"] = None
    (folder / "results.json").write_text(json.dumps(results))
    assert main([str(tmp_path)]) == 0
    assert json.loads((tmp_path / "report" / "report.json").read_text())["table1"][1]["test_std"] is None


def test_broken_folders_are_named_and_the_rest_is_reported(tmp_path, capsys):
    write_run(tmp_path, "grade", 1)
    unfinished = write_run(tmp_path, "ppo", 1)
    (unfinished / "results.json").unlink()
    broken = write_run(tmp_path, "rloo", 1)
    (broken / "results.json").write_text('{"method": "rl')
    assert main([str(tmp_path)]) == 0
    errors = capsys.readouterr().err
    assert "ppo-1: no results.json" in errors
    assert "rloo-1: results.json cannot be read" in errors


def test_mixed_protocols_and_prompts_are_warned_about(tmp_path, capsys):
    write_run(tmp_path, "grade", 1)
    other = write_run(tmp_path, "ppo", 1, protocol="paper")
    results = json.loads((other / "results.json").read_text())
    results["test"]["per_prompt"]["prompt_id"] = [prompt + 1 for prompt in PROMPTS]
    (other / "results.json").write_text(json.dumps(results))
    main([str(tmp_path)])
    errors = capsys.readouterr().err
    assert "different protocols" in errors
    assert "different prompts" in errors
    assert "(39 are common to all)" in errors


def test_runs_of_different_rewards_are_not_pooled(tmp_path):
    """Equal settings, but an edited function: two rows; other settings of the reward: a warning that says which."""
    for seed, (function, fingerprint) in enumerate((("m:f", "aa"), ("m:f", "aa"), ("m:f", "bb"), ("m:g", "bb")), start=1):
        folder = write_run(tmp_path, "rloo", seed, variant_hash=function, reward_fingerprint=fingerprint)
        (folder / "config.yaml").write_text(f"seed: {seed}\nreward:\n  function: {function}\n")
    runs = read_runs(tmp_path)[0]
    assert sorted([run.seed for run in variant.runs] for variant in group(runs)) == [[1, 2], [3], [4]]
    assert any("they differ in reward's files or source, reward.function" in warning for warning in mixed(runs))
    assert not any("different rewards" in warning for warning in mixed(runs[:2]))


def test_configurations_are_not_averaged_as_seeds(tmp_path, capsys):
    write_run(tmp_path / "a", "grade", 1, variant_hash="aaaa")
    write_run(tmp_path / "b", "grade", 1, variant_hash="bbbb")
    write_run(tmp_path / "c", "grade", 1, variant_hash="bbbb")
    assert main([str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    rows = list(csv.DictReader((tmp_path / "out" / "table1.csv").open()))
    assert [(row["method"], row["seeds"]) for row in rows[1:]] == [("GRADE (aaaa)", "1"), ("GRADE (bbbb)", "1")]
    errors = capsys.readouterr().err
    assert "2 configurations" in errors
    assert "more than once" in errors


def test_nothing_to_report_is_exit_2(tmp_path, capsys):
    assert main([str(tmp_path)]) == 2
    assert main([str(tmp_path / "nowhere")]) == 2
    assert "no finished run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "fault"),
    [("", "empty"), ("step,train/reward\n1,0.5\n2,0", "last line is left out"), ("step,train/reward\n1,0.5\n2", "1 incomplete"),
     ("step,train/reward\n2,0.5\n1,0.5\n", "do not increase"), ("step,train/reward\n1,nan\n", "no number in some steps of train/reward")],
)  # fmt: skip
def test_faults_of_metrics(tmp_path, text, fault):
    (tmp_path / "metrics.csv").write_text(text)
    faults = read_metrics(tmp_path / "metrics.csv")[1]
    assert any(fault in found for found in faults)


def test_the_pareto_front_of_a_search_is_a_table(tmp_path):
    """As Hydra's Optuna sweeper writes it (``test_search_of_the_frontier`` compares with a real one)."""
    from grade_lightning.reporting.pareto import pareto_front

    for name, values in (("a", [[0.9, 0.5], [0.6, 0.1]]), ("b", [[0.7, 0.2]])):
        (tmp_path / name).mkdir()
        solutions = [{"params": {"optimizer.lr": 1e-3 * place, "kl_coef": 0.1}, "values": pair} for place, pair in enumerate(values, 1)]
        (tmp_path / name / "optimization_results.yaml").write_text(yaml.safe_dump({"name": "optuna", "solutions": solutions}))
    for name, text in (("one", "name: optuna\nbest_value: 0.5\n"), ("broken", "solutions: [{params: {a: 1}}]\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "optimization_results.yaml").write_text(text)
    found, warnings = pareto_front(tmp_path)
    rows = found["pareto"].rows
    assert [(row["search"], row["optimizer.lr"], row["reward"], row["kl"]) for row in rows] == [
        ("a", "0.002", 0.6, 0.1), ("a", "0.001", 0.9, 0.5), ("b", "0.001", 0.7, 0.2),
    ]  # fmt: skip
    assert "| a | 0.1 | 0.002 | 0.600 | 0.100 |" in found["pareto"].markdown()
    assert len(warnings) == 1
    assert "broken" in warnings[0]
    assert pareto_front(tmp_path / "one") == ({}, [])
