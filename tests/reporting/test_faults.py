"""Run folders of other programs, minimal and malformed: what can be reported is, what cannot is named."""

from __future__ import annotations

import json
import math

import pytest

from grade_lightning.report import main
from grade_lightning.reporting.read import read_runs
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
    ("test.per_prompt.prompt_id", [1] * 40, "prompt_id twice"),
]  # fmt: skip


@pytest.mark.parametrize(("path", "value", "fault"), FAULTS)
def test_a_faulty_part_is_named_and_everything_else_reported(path, value, fault, tmp_path):
    for seed in (1, 2):
        write_run(tmp_path / "runs", "grade_ste", seed)
        write_run(tmp_path / "runs", "ppo", seed, shift=0.0)
    change(tmp_path / "runs" / "ppo-1", path, value)
    report, warnings = reported(tmp_path)
    assert [row["method"] for row in report["table1"]] == ["initial policy", "GRADE-STE", "PPO"]
    assert any(fault in line and "ppo, seed 1 (ppo-1)" in line for line in warnings.splitlines())
    assert report["table1"][1]["test"]["mean"] > 0.5


@pytest.mark.parametrize(
    ("path", "value"), [("seed", None), ("seed", "abc"), ("method", None)],
)  # fmt: skip
def test_what_is_no_run_is_left_out_by_name(path, value, tmp_path):
    write_run(tmp_path / "runs", "grade_ste", 1)
    change(write_run(tmp_path / "runs", "ppo", 1), path, value)
    report, warnings = reported(tmp_path)
    assert "ppo-1: results.json cannot be read" in warnings
    assert report["runs"] == ["grade_ste-1"]


@pytest.mark.parametrize(
    ("name", "content"),
    [("environment.json", b"[1]"), ("environment.json", b'{"packages": [1]}'), ("environment.json", b'{"a'), ("config.yaml", b"a: [b"),
     ("samples.jsonl", b'[1]\n{"split": "test", "prompt": "p", "completion": "c", "reward": null}\n'), ("samples.jsonl", b"\xff\n"),
     ("metrics.csv", b"\xff\xfe"), ("metrics.csv", b"step\n"), ("metrics.csv", b"train/reward\n0.5\n"), ("config.yaml", b"- 1")],
)  # fmt: skip
def test_a_faulty_file_costs_itself_alone(name, content, tmp_path):
    (write_run(tmp_path / "runs", "grade_ste", 1) / name).write_bytes(content)
    assert len(reported(tmp_path)[0]["table1"]) == 2


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
    reported(tmp_path)
    html = (tmp_path / "out" / "report.html").read_text()
    samples = json.loads(html.split('id="data">')[1].split("</script>")[0])
    assert [(s["prompt"], s["before"], s["lift"]) for s in samples] == [("p1", "initial of p1", 0.5), ("p2", "initial of p2", 0.5)]


def test_unfinished_runs_give_their_reason(tmp_path):
    write_run(tmp_path / "runs", "grade", 1)
    failed = tmp_path / "runs" / "ppo-1"
    failed.mkdir()
    (failed / "error.txt").write_text("ValueError: no such model")
    assert "no such model" in reported(tmp_path)[1]


def test_twenty_five_thousand_prompts(tmp_path):
    """The paper's size, within little memory."""
    import resource

    folders = [write_run(tmp_path / "runs", method, 1) for method in ("grade", "ppo")]
    ids = list(range(25_000))
    for shift, folder in enumerate(folders):
        for split in ("initial", "test"):
            rewards = [((i * 7919) % 1000) / 1000 + 0.001 * shift * ((i * 31) % 7 - 3) for i in ids]
            change(folder, f"{split}.per_prompt", {"prompt_id": ids, "reward": rewards})
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reported(tmp_path)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1 << 20  # KiB


def test_labels_that_matplotlib_or_latex_could_misread(tmp_path):
    write_run(tmp_path / "runs", r"a$\bad{$_&%", 1)
    reported(tmp_path)
    assert r"a\$\textbackslash{}bad" in (tmp_path / "out" / "table1.tex").read_text()


def test_rates_of_a_sweep_keep_their_names(tmp_path):
    for rate in ("3e-4", "1e-3"):
        folder = write_run(tmp_path / "runs", "grade", 1, variant_hash=rate)
        folder.rename(folder.with_name(f"grade-{rate}"))
    assert [row["method"] for row in reported(tmp_path)[0]["table1"][1:]] == ["GRADE (1e-3)", "GRADE (3e-4)"]
