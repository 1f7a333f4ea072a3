"""Cards, read by a Markdown parser of somebody else's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from markdown_it import MarkdownIt

from grade_lightning.export import export
from grade_lightning.exporting.card import short
from grade_lightning.exporting.markdown import code, code_block, table

HOSTILE = [
    "```\n# Heading\n<script>alert(1)</script>\n[link](javascript:alert(1)) ![image](https://example.org/a.png)\n",
    "````` \n~~~\n</code></pre><img src=x onerror=alert(1)>\n---\n| a | b |\n| - | - |\n",
    "text\r```\r<b>bold</b>\r\n```\r\n***strong***",
    "\u2028```\u2029<i>x</i>\u0085`` ` ``` \x00\x0b\x0c<!-- ",
    "``",
    "`|` \\| | <u>x</u> www.example.org me@example.org $x$ &lt; \\",
    "",
]
PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
MARKUP = {"html_block", "html_inline", "link_open", "image", "em_open", "strong_open", "hr", "blockquote_open"}


def tokens(text: str) -> list:
    """All tokens of a document, those within lines too."""
    return [inner for token in PARSER.parse(text) for inner in (token, *(token.children or []))]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_code_block_holds_all_of_a_text(text):
    found = tokens(f"before\n\n{code_block(text)}\n\nafter")
    assert [token.type for token in found if token.type not in ("paragraph_open", "paragraph_close", "inline", "text")] == ["fence"]
    block = next(token for token in found if token.type == "fence")
    assert block.info == "text"
    assert [token.content for token in found if token.type == "text"] == ["before", "after"]
    plain = text.replace("\r\n", "\n").replace("\r", "\n")
    assert block.content.removesuffix("\n") == "".join("\ufffd" if c in "\x00\x0b\x0c\u0085\u2028\u2029" else c for c in plain)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_cell_holds_a_text_as_one_piece_of_code(text):
    found = tokens(table(["a", "b"], [[code(text), "end"]]))
    assert len([token for token in found if token.type == "code_inline"]) == 1
    assert [token.content for token in found if token.type == "text"] == ["a", "b", "end"]
    assert len([token for token in found if token.type == "td_open"]) == 2


@pytest.fixture(scope="module")
def hostile(strong, tmp_path_factory) -> Path:
    """A run whose every text was written by somebody who knows Markdown."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(strong, folder)
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    for place, sample in enumerate(samples):
        sample |= {"prompt": HOSTILE[place % len(HOSTILE)] + " PROMPT-END", "completion": HOSTILE[(place + 3) % len(HOSTILE)]}
    (folder / "samples.jsonl").write_text("".join(json.dumps(sample) + "\n" for sample in samples))
    results = json.loads((folder / "results.json").read_text())
    wild = "\n# <b>x</b> [y](z) `` | \\| ---\n"
    results |= {"method": wild, "data": wild, "model": wild, "protocol": wild}
    results["reward_head"] |= {f"heldout_{wild}": 0.5}
    results["judges"][wild] = {"heldout_accuracy_reviews": 0.9}
    (folder / "results.json").write_text(json.dumps(results))
    environment = json.loads((folder / "environment.json").read_text())
    environment |= {"command": ["python", wild, *HOSTILE], "python": wild, "git_revision": wild, "packages": {wild: wild}}
    (folder / "environment.json").write_text(json.dumps(environment))
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["data"]["source"]["seed"] = 0
    config["reward"]["head"] |= {}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder


def test_no_text_of_a_run_becomes_markup(hostile, strong, tmp_path):
    plain, wild = (_body(export(run, tmp_path / run.parent.name)) for run in (strong, hostile))
    assert not {token.type for token in tokens(wild)} & MARKUP

    def headings(text: str) -> list[str]:
        found = tokens(text)
        return [found[place + 1].content for place, token in enumerate(found) if token.type == "heading_open" and token.tag == "h2"]

    assert headings(wild) == headings(plain)
    assert wild.count("PROMPT-END") == plain.count("PROMPT\n") == 4


def _body(out: Path) -> str:
    """A card without what a hub reads, which is YAML of known keys."""
    _, matter, body = (out / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    assert set(yaml.safe_load(matter)) == {"library_name", "pipeline_tag", "tags"}
    return body


def test_a_card_says_what_the_run_measured(strong, tmp_path):
    card = (export(strong, tmp_path / "out") / "README.md").read_text()
    results = json.loads((strong / "results.json").read_text())
    before, after = results["initial"], results["test"]
    for title, key, spec in (
        ("reward, mean", "reward_mean", ".3f"), ("KL, nats per token", "kl_mean", ".3f"),
        ("KL, nats per completion", "kl_sequence_mean", ".2f"), ("test prompts", "n", "d"),
    ):  # fmt: skip
        assert f"| {title} | {format(before[key], spec)} | {format(after[key], spec)} |" in card
    judge = next(line for line in card.splitlines() if line.startswith("| judge `classifier`"))
    assert judge.endswith(f"| {before['judge_mean']:.3f} | {after['judge_mean']:.3f} |")
    assert f"`accuracy reviews` {results['judge']['heldout_accuracy_reviews']:.3f}" in judge
    assert f"`accuracy openings` {results['reward_head']['heldout_accuracy_openings']:.3f}" in card
    samples = [json.loads(line) for line in (strong / "samples.jsonl").read_text().splitlines()]
    shown = next(sample for sample in samples if sample["split"] == "test")
    assert f"AFTER (reward {shown['reward']:.3f})\n{shown['completion']}" in card
    assert json.loads((strong / "environment.json").read_text())["packages"]["torch"] in card
    assert "max_steps: 2" in card
    assert "One run with one seed" in card


def test_numbers_of_the_last_weights_are_not_given_to_the_best(strong, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(strong, copy)
    results = json.loads((copy / "results.json").read_text())
    results["best_validation"] = {"step": 0, "reward_mean": 0.625}
    (copy / "results.json").write_text(json.dumps(results))
    best, last = ((export(copy, tmp_path / c, checkpoint=c) / "README.md").read_text() for c in ("best", "last"))
    assert "the best validation (step 0, reward 0.625 on validation), which were not tested" in best
    assert "which were not tested" not in last


def test_a_run_without_a_test_shows_its_validation(strong, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(strong, copy)
    results = json.loads((copy / "results.json").read_text())
    first, last = results["validation"][0], results["validation"][-1]
    (copy / "results.json").write_text(json.dumps({key: value for key, value in results.items() if key not in ("test", "initial")}))
    lines = (copy / "samples.jsonl").read_text().splitlines()
    (copy / "samples.jsonl").write_text("\n".join(line for line in lines if json.loads(line)["split"] == "validation") + "\n")
    card = (export(copy, tmp_path / "out") / "README.md").read_text()
    assert "The test split was not touched" in card
    assert f"| reward, mean | {first['reward_mean']:.3f} | {last['reward_mean']:.3f} |" in card
    assert "BEFORE (reward" in card


@pytest.mark.parametrize(
    ("given", "shown"),
    [
     ("data.path=/home/me/imdb", "data.path=imdb"), ("/home/me/a=b/c", "a=b/c"), ("x=[/home/me/a,~me/b]", "x=[a,b]"), ("../up/a", "a"),
     ("a=./b/", "a=b/"), ("model.path=org/name", "model.path=org/name"), ("https://host/a/b", "https://host/a/b"),
     ("3 of 5/10", "3 of 5/10"),
     ("grade_lightning.methods.GRADE", "grade_lightning.methods.GRADE"), ("/", "/"), ("s3=s3://bucket/a", "s3=s3://bucket/a")],
)  # fmt: skip
def test_folders(given, shown):
    assert short(given) == shown


def test_folders_of_the_machine_are_shortened(strong, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(strong, copy)
    environment = json.loads((copy / "environment.json").read_text())
    environment["command"] = ["python", "-m", "grade_lightning.run", "data.path=/home/somebody/imdb", "model.path=~/lm", "seed=1"]
    (copy / "environment.json").write_text(json.dumps(environment))
    card = (export(copy, tmp_path / "out") / "README.md").read_text()
    assert "python -m grade_lightning.run data.path=imdb model.path=lm seed=1" in card
    assert "somebody" not in card
