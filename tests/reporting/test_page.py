"""Table 2, what lies beyond the reward, the figures and the page, from run folders written here."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from grade_lightning.report import main
from grade_lightning.reporting.page import LARGEST
from tests.reporting.hostile import SCRIPT, write_hostile
from tests.reporting.test_report import PAPER, PROMPTS, write_run


def add(folder, *, judge: float, repeated: float = 0.0, text: str = "fine") -> None:
    """Give a run the details of an evaluation, its training curves and samples."""
    results = json.loads((folder / "results.json").read_text())
    generator = np.random.default_rng(results["seed"])
    for split, shift in (("initial", 0.0), ("test", 1.0)):
        noise = 0.01 * generator.standard_normal(len(PROMPTS))
        results[split]["per_prompt"] |= {
            "judge": (0.5 + shift * judge + noise).tolist(),
            "repeated_4": (shift * repeated + 0.1 + noise).tolist(), "perplexity": (20 + noise).tolist(),
        }  # fmt: skip
        results[split] |= {"judge_mean": 0.5 + shift * judge, "perplexity": 20.0, "distinct_2": 0.9 - 0.5 * shift * repeated,
                           "length_mean": 8.0, "eos_rate": 0.5, "repeated_4_mean": 0.1}  # fmt: skip
    (folder / "results.json").write_text(json.dumps(results))
    rows = ["step,train/reward,train/loss,train/kl,train/grad_norm,train/grad_norm_tensor_std,train/tau,train/tokens,train/seconds"]
    rows += [f"{step},{0.4 + 0.001 * step},-0.4,0.1,{1 + step % 3},0.5,{2 - step / 100},64,0.5" for step in range(1, 101)]
    (folder / "metrics.csv").write_text("\n".join(rows) + "\n")
    lines = [
        {"split": split, "step": 0, "prompt": "It was", "completion": f"{text} {split}", "reward": reward, "prompt_id": 100}
        for split, reward in (("initial", 0.2), ("test", 0.7))
    ]
    (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "config.yaml").write_text(f"seed: {results['seed']}\nmethod: {{name: {results['method']}}}\nmax_steps: 100\n")
    (folder / "environment.json").write_text(json.dumps({"git_revision": "abc123", "packages": {"torch": "2.13.0"}}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def sweep(folder):
    for seed in (1, 2, 3):
        add(write_run(folder / "runs", "grade_ste", seed, shift=0.3, **PAPER), judge=0.25)
        add(
            write_run(folder / "runs", "grade", seed, shift=0.2, **PAPER),
            judge=-0.1,
            repeated=0.6,
            text="</script><script>alert(1)</script>",
        )
    assert main([str(folder / "runs"), "--out", str(folder / "out")]) == 0
    return folder / "out"


def read(out):
    return json.loads((out / "report.json").read_text())


def test_table2(sweep):
    (row,) = read(sweep)["table2"]
    assert (row["first"], row["second"]) == ("GRADE", "GRADE-STE")
    assert row["difference"] == pytest.approx(-0.1, abs=0.02)
    assert row["prompt_holm"] < 0.001
    assert row["published_t"] == -8.61
    assert row["paper_t"] == 0.0  # the training rewards were written equal
    assert (row["prompts"], row["seeds"]) == (len(PROMPTS), 6)


def test_reward_without_judge_or_fluency_is_named(sweep):
    (named,) = [warning for warning in read(sweep)["warnings"] if "reward rose" in warning]
    assert re.match(r"GRADE: reward rose by (0.19|0.20)\d while the judge's probability fell by (0.09|0.10)\d,", named)
    assert "repeated 4-grams rose" in named
    assert "distinct-2" in named
    assert "perplexity" not in named


def test_gap_between_judge_and_reward(sweep):
    rows = {row["method"]: row for row in read(sweep)["quality"]}
    assert rows["GRADE-STE"]["gap"]["mean"] == pytest.approx(0.25 - 0.3, abs=0.01)
    assert rows["GRADE"]["judge_lift"]["mean"] == pytest.approx(-0.1, abs=0.01)


def test_stability_table(sweep):
    for row in read(sweep)["stability"]:
        # 100 steps that rise by 0.001: one published window of two, both with the variance of 0..49 thousandths.
        assert row["published"] == pytest.approx(np.var(np.arange(50) / 1000))
        assert row["all"] == pytest.approx(row["published"])


def test_figures_are_pictures(sweep):
    names = ["figure1_training", "figure2_validation", "figure3_gradients", "figure4_temperature", "frontier", "cost"]
    for name in names:
        assert (sweep / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        assert (sweep / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_log_axes_have_numbers(sweep):
    shown = re.sub(r"<!--.*?-->", "", (sweep / "report.html").read_text(), flags=re.DOTALL)
    assert "mathdefault" not in shown


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.addresses, self.scripts, self.inside, self.events, self.ids = [], [], [], False, [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.inside = tag == "script"
        self.events += [name for name, _ in attrs if name.startswith("on")]
        self.ids += [value for name, value in attrs if name == "id"]
        self.addresses += [value for name, value in attrs if name in ("src", "href", "xlink:href") and not value.startswith("#")]

    def handle_data(self, data):
        if self.inside:
            self.scripts.append(data)
            self.inside = False


def test_page_stands_alone_and_shows_text_as_text(sweep):
    html = (sweep / "report.html").read_text()
    page = _Page()
    page.feed(html)
    assert page.addresses == []
    assert not re.search(r"@import|url\((?!#)", html)
    assert html.count("data-figure=") == 7
    assert page.tags.count("script") == 2  # the samples' own <script> is text
    assert len(page.scripts) == 2
    data = json.loads(page.scripts[0])
    assert {"frontier", "frontier_completion", "figure1_training", "cost"} <= set(data["figures"])
    assert [run["name"] for run in data["runs"]["runs"]][-1] == "initial policy"
    assert "&lt;/script&gt;&lt;script&gt;alert(1)&lt;/script&gt; test" in html
    assert "abc123" in html
    assert "method.name" in html
    assert len(html.encode()) < LARGEST


def test_the_title_is_no_folders_name(sweep, folder):
    html = (sweep / "report.html").read_text()
    assert "<title>GRADE and GRADE-STE: report</title>" in html
    assert folder.name not in html
    assert str(folder) not in html


def test_before_stands_once_for_each_prompt(sweep):
    html = (sweep / "report.html").read_text()
    # One prompt; the two methods began from different texts, so there are two groups of one before and three seeds.
    assert html.count('class="before"') == 2
    assert html.count("<article data-v=") == 6
    assert html.count("2 of other seeds") == 2
    assert html.count("reward 0.70 (+0.50)") == 6


def test_what_would_make_the_page_too_large_is_cut(sweep, folder, monkeypatch):
    whole = (sweep / "report.html").read_text()
    monkeypatch.setattr("grade_lightning.reporting.page.LARGEST", len(whole.encode()) - 1)
    assert main([str(folder / "runs"), "--out", str(folder / "smaller")]) == 0
    smaller = (folder / "smaller" / "report.html").read_text()
    assert len(smaller.encode()) < len(whole.encode())
    assert smaller.count("<li>") >= 3


def test_hostile_text_stays_text(tmp_path):
    """Everything that comes from a run is escaped, in markup, in the SVGs' labels and in the embedded JSON."""
    write_hostile(tmp_path / "runs")
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    html = (tmp_path / "out" / "report.html").read_text()
    page = _Page()
    page.feed(html)
    assert page.tags.count("script") == 2
    assert "img" not in page.tags
    assert page.events == []
    assert "hacked" not in page.ids
    assert "{{ 7 * 7 }}" in html
    assert html.count("<!--") == 0
    texts = {run["name"] for run in json.loads(page.scripts[0])["runs"]["runs"]}
    assert any(SCRIPT in text for text in texts)
    assert "hacked" in (tmp_path / "out" / "table1.md").read_text()


def test_same_runs_same_report(sweep, folder, tmp_path):
    assert main([str(folder / "runs"), "--out", str(tmp_path / "again")]) == 0
    for file in sorted(sweep.iterdir()):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


def test_one_run_without_anything_optional(tmp_path):
    folder = write_run(tmp_path / "runs", "mine", 1, initial=None)
    (folder / "metrics.csv").unlink()
    assert main([str(tmp_path / "runs"), "--out", str(tmp_path / "out")]) == 0
    warnings = read(tmp_path / "out")["warnings"]
    assert any("no metrics.csv" in warning for warning in warnings)
    assert any("single seed" in warning for warning in warnings)
    assert (tmp_path / "out" / "report.html").exists()
