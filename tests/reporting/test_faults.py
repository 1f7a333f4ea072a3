"""Run folders of other programs, minimal and malformed: what can be reported is, what cannot is named."""

from __future__ import annotations

import json
import math

import pytest

from grade_lightning.report import main
from grade_lightning.reporting.beyond import quality
from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.samples import samples
from grade_lightning.reporting.table1 import table1
from grade_lightning.reporting.table2 import table2
from grade_lightning.reporting.variants import group
from tests.reporting.test_report import PROMPTS, write_run

NAN = float("nan")


def change(folder, path: str, value) -> None:
    file = folder / "results.json"
    results = json.loads(file.read_text())
    node, *names = results, *path.split(".")
    for name in names[:-1]:
        node = node[name]
    node[names[-1]] = value
    file.write_text(json.dumps(results))


def reported(tmp_path, code: int = 0) -> tuple[dict, str]:
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == code
    text = (tmp_path / "out" / "report.json").read_text()
    report = json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert (tmp_path / "out" / "report.html").exists()
    return report, "\n".join(report["warnings"])


FAULTS = [
    ("initial", None, "initial: missing"), ("test", None, "test: missing"), ("best_validation", None, "no best_validation"),
    ("validation", [], "no validation"), ("validation", None, "no validation"), ("validation", [{"reward_mean": 0.5}, 3], "no validation"),
    ("test.n", None, "test: no n"), ("test.reward_std", None, "test: no reward_std"), ("test.reward_mean", NAN, "no number: left out"),
    ("test.per_prompt", None, "no paired comparison"), ("test.per_prompt.reward", [0.5], "not as long as prompt_id"),
    ("test.per_prompt.reward", [None, NAN] + [0.5] * 38, "no number for 2 of 40"), ("test.per_prompt", {"reward": [1]}, "no paired"),
    ("test.per_prompt.prompt_id", [[1]] * 40, "no number and no text"),
]  # fmt: skip


def test_faulty_parts_are_named_and_everything_else_reported(tmp_path):
    write_run(tmp_path / "runs", "grade_ste", 1)
    for seed, (path, value, _) in enumerate(FAULTS, start=1):
        change(write_run(tmp_path / "runs", "ppo", seed, shift=0.0), path, value)
    report, warnings = reported(tmp_path)
    assert [row["method"] for row in report["table1"]] == ["initial policy", "GRADE-STE", "PPO"]
    assert report["table1"][1]["test"]["mean"] > 0.5
    for seed, (_, _, fault) in enumerate(FAULTS, start=1):
        assert any(fault in line and f"ppo, seed {seed} (ppo-{seed})" in line for line in warnings.splitlines()), fault


@pytest.mark.parametrize("path", [path for path, _, _ in FAULTS])
def test_one_run_with_one_fault_is_still_a_report(path, tmp_path):
    value = next(value for name, value, _ in FAULTS if name == path)
    change(write_run(tmp_path / "runs", "ppo", 1, shift=0.0), path, value)
    variants = group(read_runs(tmp_path / "runs")[0])
    assert table1(variants).rows[-1]["method"] == "PPO"
    assert quality(variants).markdown()


def test_a_fault_of_many_runs_is_one_warning(tmp_path):
    for seed in range(1, 6):
        change(write_run(tmp_path / "runs", "ppo", seed), "test", None)
    change(write_run(tmp_path / "runs", "ppo", 6), "initial", None)
    _, warnings = read_runs(tmp_path / "runs")
    assert warnings == ["test: missing in 5 runs (ppo, seed 1 (ppo-1), ppo, seed 2 (ppo-2), ...)", "ppo, seed 6 (ppo-6): initial: missing"]


def test_what_is_no_run_is_left_out_by_name(tmp_path):
    write_run(tmp_path / "runs", "grade_ste", 1)
    for seed, (path, value) in enumerate((("seed", None), ("seed", "abc"), ("method", None)), start=1):
        change(write_run(tmp_path / "runs", "ppo", seed), path, value)
    (write_run(tmp_path / "runs", "ppo", 4) / "results.json").write_bytes(b"\xff\xfe")
    runs, warnings = read_runs(tmp_path / "runs")
    assert [run.folder.name for run in runs] == ["grade_ste-1"]
    assert all(f"ppo-{seed}: results.json cannot be read" in "\n".join(warnings) for seed in (1, 2, 3, 4))


def test_faulty_files_cost_themselves_alone(tmp_path):
    files = [
        ("environment.json", b"[1]"), ("environment.json", b'{"packages": [1]}'), ("environment.json", b'{"a'),
        ("config.yaml", b"a: [b"), ("config.yaml", b"- 1"), ("samples.jsonl", b"\xff\n"),
        ("samples.jsonl", b'[1]\n{"split": "test", "prompt": "p", "completion": "c", "reward": null}\n'), ("metrics.csv", b"\xff\xfe"),
        ("metrics.csv", b"step\n"), ("metrics.csv", b"train/reward\n0.5\n"),
    ]  # fmt: skip
    for seed, (name, content) in enumerate(files, start=1):
        (write_run(tmp_path / "runs", "grade_ste", seed) / name).write_bytes(content)
    report, warnings = reported(tmp_path)
    assert sum(row["seeds"] for row in report["table1"][1:]) == len(files)
    for fault in ("environment.json cannot be read", "config.yaml cannot be read", "that are no samples", "has no steps"):
        assert fault in warnings


def test_a_run_that_stopped_early_is_named(tmp_path):
    change(write_run(tmp_path / "runs", "ppo", 1), "steps", 250)
    assert "3 of 250 steps" in reported(tmp_path)[1]


def test_results_that_are_no_text(tmp_path):
    write_run(tmp_path / "runs", "grade_ste", 1)
    (write_run(tmp_path / "runs", "ppo", 1) / "results.json").write_bytes(b"\xff\xfe")
    assert "ppo-1" in reported(tmp_path)[1]


def test_nan_rewards_are_no_evidence(tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "runs", "grade_ste", seed, shift=0.0)
        write_run(tmp_path / "runs", "ppo", seed, shift=0.0)
    rewards = json.loads((tmp_path / "runs" / "ppo-1" / "results.json").read_text())["test"]["per_prompt"]["reward"]
    change(tmp_path / "runs" / "ppo-1", "test.per_prompt.reward", [NAN, *rewards[1:]])
    (row,) = table2(group(read_runs(tmp_path / "runs")[0])).rows
    assert row["prompts"] == len(PROMPTS) - 1
    assert row["prompt_p"] > 0.05
    assert math.isfinite(row["difference"])


def test_prompts_with_the_same_text_are_paired_one_by_one(tmp_path):
    """IMDB's 25,000 test reviews have 24,801 different texts, and an id is a hash of the text."""
    ids = PROMPTS[:-2] + PROMPTS[:2]
    for method, shift in (("grade_ste", 0.3), ("ppo", 0.0)):
        folder = write_run(tmp_path / "runs", method, 1, shift=shift)
        for split in ("initial", "test"):
            change(folder, f"{split}.per_prompt.prompt_id", ids)
    runs, warnings = read_runs(tmp_path / "runs")
    assert not [warning for warning in warnings if "per_prompt" in warning]
    before, after = (runs[0].per_prompt(split) for split in ("initial", "test"))
    assert (len(before), before.keys()) == (len(PROMPTS), after.keys())
    rewards = runs[0].results["test"]["per_prompt"]["reward"]
    assert (after[ids[0], 0], after[ids[0], 1]) == (rewards[0], rewards[-2])
    (row,) = table2(group(runs)).rows
    assert row["prompts"] == len(PROMPTS)
    assert row["prompt_p"] < 0.001
    assert table1(group(runs)).rows[1]["lift"].high - table1(group(runs)).rows[1]["lift"].low < 0.02  # pairs, not mixtures of two prompts


def test_samples_of_prompts_with_the_same_text_keep_their_partner(tmp_path):
    folder = write_run(tmp_path / "runs", "grade", 1)
    lines = [
        {"split": split, "step": 0, "prompt": "p", "prompt_id": 7, "completion": f"{split} {place}", "reward": 0.25 * place}
        for split in ("initial", "test") for place in (1, 2)
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = samples(group(read_runs(tmp_path / "runs")[0]))
    assert [(s["before"], s["after"], s["lift"]) for s in found] == [("initial 1", "test 1", 0.0), ("initial 2", "test 2", 0.0)]


def test_only_the_documented_keys(tmp_path):
    """No hash of ours: configurations are told apart by what the format documents."""
    for seed, data in ((1, "imdb"), (2, "imdb"), (3, "other"), (4, "other")):
        folder = write_run(tmp_path / "runs", "grade", seed, data=data)
        change(folder, "test", {"reward_mean": 0.6, "reward_std": 0.3, "n": 500})
        change(folder, "initial", {"reward_mean": 0.5, "reward_std": 0.3, "n": 500})
    report, warnings = reported(tmp_path)
    assert [row["seeds"] for row in report["table1"]] == [4, 2, 2]
    assert "different data" in warnings
    assert "seeds" in warnings


def test_single_runs_without_prompts_are_compared_by_their_spreads(tmp_path):
    for method, mean in (("grade", 0.615), ("ppo", 0.600)):
        change(write_run(tmp_path / "runs", method, 1), "test", {"reward_mean": mean, "reward_std": 0.3, "n": 500})
    report, warnings = reported(tmp_path)
    assert report["table2"][0]["unpaired_p"] == pytest.approx(0.4295, abs=1e-3)  # z = 0.015 / (0.3 sqrt(2 / 499))
    assert "GRADE - PPO" in warnings


def test_samples_without_ids_are_paired_by_prompt(tmp_path):
    folder = write_run(tmp_path / "runs", "grade", 1)
    lines = [
        {"split": split, "step": 0, "prompt": prompt, "completion": f"{split} of {prompt}", "reward": reward}
        for split, reward in (("initial", 0.25), ("test", 0.75)) for prompt in ("p1", "p2")
    ]  # fmt: skip
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = samples(group(read_runs(tmp_path / "runs")[0]))
    assert [(s["prompt"], s["before"], s["lift"]) for s in found] == [("p1", "initial of p1", 0.5), ("p2", "initial of p2", 0.5)]


def test_unfinished_runs_give_their_reason(tmp_path):
    write_run(tmp_path / "runs", "grade", 1)
    failed = tmp_path / "runs" / "ppo-1"
    failed.mkdir()
    (failed / "error.txt").write_text("ValueError: no such model")
    assert "no such model" in reported(tmp_path)[1]


@pytest.mark.slow
def test_twenty_five_thousand_prompts(tmp_path):
    """The paper's size, within little memory."""
    from grade_lightning.training.memory import peak

    folders = [write_run(tmp_path / "runs", method, 1) for method in ("grade", "ppo")]
    ids = list(range(25_000))
    for shift, folder in enumerate(folders):
        for split in ("initial", "test"):
            rewards = [((i * 7919) % 1000) / 1000 + 0.001 * shift * ((i * 31) % 7 - 3) for i in ids]
            change(folder, f"{split}.per_prompt", {"prompt_id": ids, "reward": rewards})
    before = peak("cpu")
    reported(tmp_path)
    assert peak("cpu") - before < 1 << 30


def test_labels_that_matplotlib_or_latex_could_misread(tmp_path):
    write_run(tmp_path / "runs", r"a$\bad{$_&%", 1)
    reported(tmp_path)
    assert r"a\$\textbackslash{}bad" in (tmp_path / "out" / "table1.tex").read_text()


def test_rates_of_a_sweep_keep_their_names(tmp_path):
    for rate in ("3e-4", "1e-3"):
        folder = write_run(tmp_path / "runs", "grade", 1, variant_hash=rate)
        folder.rename(folder.with_name(f"grade-{rate}"))
    assert [row["method"] for row in reported(tmp_path)[0]["table1"][1:]] == ["GRADE (1e-3)", "GRADE (3e-4)"]
