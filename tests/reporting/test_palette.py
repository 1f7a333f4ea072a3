"""One palette and one set of names for all figures, and labels that say what differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.estimator_lab.figures import LOOKS
from grade_lightning.records.leaves import read_leaves
from grade_lightning.reporting.palette import TITLES, estimator_title, looks
from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.variants import group, looks_of
from tests.reporting.test_report import PAPER, write_run

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


@pytest.mark.parametrize("methods", [list(TITLES), ["grade_ste"] * 30 + ["decoupled_st", "grpo", "mine", "yours", "mine"]])
def test_no_look_comes_twice(methods):
    found = looks(methods)
    assert len({(look.colour, str(look.dash), look.marker) for look in found}) == len(methods)
    colours = {method: look.colour for method, look in zip(methods, found, strict=True)}
    assert all(look.colour == colours[method] for method, look in zip(methods, found, strict=True))


def test_every_method_of_the_configuration_has_a_name_and_a_look_of_its_own():
    methods = sorted(file.stem for file in (EXPERIMENTS.parent / "conf" / "method").glob("*.yaml"))
    assert set(methods) <= set(TITLES)
    assert len({(look.colour, str(look.dash), look.marker) for look in (looks([m])[0] for m in methods)}) == len(methods)


def test_studies_use_the_palette():
    estimators = read_leaves(EXPERIMENTS / "gradient_quality" / "gradients.parquet")["checkpoints/initial"]["estimators"]
    found = looks([name.split(":")[0] for name in estimators])
    assert len({(look.colour, str(look.dash), look.marker) for look in found}) == len(estimators) == 13
    assert len(set(LOOKS.values())) == len(LOOKS)
    assert estimator_title("grade_ste:tau=1:max_hops=0") == "GRADE-STE, tau=1, max_hops=0"


def configured(root: Path, seed: int, text: str) -> None:
    folder = write_run(root, "rloo", seed, variant_hash=text)
    (folder / "config.yaml").write_text(f"seed: {seed}\nkl_coef: 0.1\n{text}\n")


def test_labels_are_the_settings_that_differ(tmp_path):
    for seed, text in enumerate(("optimizer: {lr: 1, eps: 5}", "optimizer: {lr: 2, eps: 5}", "optimizer: {lr: 2, eps: 6}"), start=1):
        configured(tmp_path, seed, text)
    assert [v.label for v in group(read_runs(tmp_path)[0])] == ["RLOO (lr=1, eps=5)", "RLOO (lr=2, eps=5)", "RLOO (lr=2, eps=6)"]


def test_a_label_hides_no_second_difference(tmp_path):
    for seed, text in enumerate(("reward: {weight: 1}\nlr: 5", "reward: {weight: 2}\nlr: 6"), start=1):
        configured(tmp_path, seed, text)
    assert [v.label for v in group(read_runs(tmp_path)[0])] == ["RLOO (lr=5, reward.weight=1)", "RLOO (lr=6, reward.weight=2)"]


def test_configurations_keep_the_colour_of_their_method(tmp_path):
    for seed in (1, 2, 3):
        configured(tmp_path, seed, f"lr: {seed}")
    found = list(looks_of(group(read_runs(tmp_path)[0])).values())
    assert len({look.colour for look in found}) == 1
    assert len(set(map(str, found))) == 3


@pytest.mark.parametrize(
    ("changes", "expected"),
    [(PAPER, True), ({**PAPER, "protocol": "released"}, True), ({**PAPER, "protocol": "controlled"}, False),
     ({**PAPER, "data": "synthetic"}, False), ({**PAPER, "data": "my-imdb"}, True)],
)  # fmt: skip
def test_published_numbers_stand_beside_imdb_under_the_papers_protocols_alone(tmp_path, changes, expected):
    write_run(tmp_path, "grade", 1, **changes)
    (variant,) = group(read_runs(tmp_path)[0])
    assert variant.like_paper == expected
