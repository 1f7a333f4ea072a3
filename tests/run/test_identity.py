"""What makes two runs the same run."""

import copy
import json
import shutil
from pathlib import Path

import pytest
import yaml
from omegaconf import open_dict

from grade_lightning.compose import config_hash
from grade_lightning.run import execute
from tests.entry import SMALL, compose_run, run_small


@pytest.mark.parametrize("content", [None, "", "a: ["])
def test_the_configuration_of_a_finished_run_is_written_again(content, finished, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    before = yaml.safe_load((folder / "config.yaml").read_text())
    (folder / "config.yaml").unlink() if content is None else (folder / "config.yaml").write_text(content)
    assert run_small(folder, "evaluation.validate_every=1") == finished[1]
    after = yaml.safe_load((folder / "config.yaml").read_text())
    assert {**after, "run": None} == {**before, "run": None}


def test_hash_ignores_folders_and_nothing_else():
    base = ["data=parquet", "data.path=/a/imdb", "model=local", "model.path=/b/lm"]
    moved = ["data=parquet", "data.path=/c/d/imdb", "model=local", "model.path=/e/lm"]
    assert config_hash(compose_run(base, Path("/x"))) == config_hash(compose_run(moved, Path("/y")))
    other = [compose_run(["model=local", f"model.path={hub_id}"]) for hub_id in ("a/model", "b/model")]
    assert config_hash(other[0]) != config_hash(other[1])
    assert config_hash(compose_run([*base, "seed=2"])) != config_hash(compose_run(base))
    assert config_hash(compose_run([*base, "logger=wandb"])) == config_hash(compose_run(base))


CHANGED = {
    "max_hops=null": True, "max_hops=1": False,  # earlier versions counted the first hop as none
    "match_kl=false": True, "match_kl=true": False,  # and matched a KL batch by batch
}  # fmt: skip


@pytest.mark.parametrize(("option", "same"), CHANGED.items())
def test_a_setting_that_changed_its_meaning_changes_the_hash(option, same, monkeypatch):
    cfg = compose_run([*(["method=grpo"] if "kl" in option else []), f"method.{option}"])
    now = config_hash(cfg)
    monkeypatch.setattr("grade_lightning.records.identity._with_changed", lambda plain: plain)
    assert (config_hash(cfg) == now) == same


def test_hash_of_a_run_that_could_not_choose_its_optimizer():
    now = compose_run(["method=rloo"])
    earlier = copy.deepcopy(now)
    with open_dict(earlier):
        del earlier.optimizer.name
    assert config_hash(earlier) == config_hash(now)
    assert config_hash(compose_run(["method=rloo", "optimizer.name=sgd"])) != config_hash(now)


def test_a_folder_with_other_contents_is_another_run(tmp_path, small_lm, monkeypatch):
    """The hash knows folders by name: what is in them is compared, for a finished run and for one that goes on."""
    from grade_lightning.data.synthetic import SyntheticSource
    from grade_lightning.training.course import Course
    from tests.data.test_sources import write_parquet

    corpus = SyntheticSource(1300, 24, 0).load()

    def write(leave_out: int) -> None:
        for name, reviews in (("train", corpus.train), ("test", corpus.test)):
            kept = list(range(leave_out, len(reviews.texts)))
            write_parquet(tmp_path / "data", [reviews.texts[row] for row in kept], [int(reviews.labels[row]) for row in kept], (name,))

    small = [item for item in SMALL if not item.startswith("data.source")]
    options = [*small, "model=local", f"model.path={small_lm}", "data=parquet", f"data.path={tmp_path / 'data'}", "reward.head.lr=3e-3",
               "reward.head.epochs=40", "run.checkpoint_every=1"]  # fmt: skip
    cfg = compose_run(options, tmp_path / "run")
    write(leave_out=0)
    finish = Course._finish
    monkeypatch.setattr(Course, "_finish", lambda *_: (_ for _ in ()).throw(RuntimeError("power cut")))
    with pytest.raises(RuntimeError, match="power cut"):
        execute(cfg)
    monkeypatch.setattr(Course, "_finish", finish)
    write(leave_out=1)
    with pytest.raises(ValueError, match=r"other inputs of the same names \(reviews\)"):
        execute(cfg)
    write(leave_out=0)
    results = execute(cfg)
    assert execute(cfg) == json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["steps"] == 2
    write(leave_out=1)
    with pytest.raises(ValueError, match=r"finished run of other reviews or prompts of the same name"):
        execute(cfg)
