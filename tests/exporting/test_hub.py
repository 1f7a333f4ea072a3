"""Uploads to a stand-in of a hub, by the hub's own client."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import huggingface_hub.constants
import pytest
import torch
from peft import AutoPeftModelForCausalLM, PeftModel
from transformers import AutoModelForCausalLM

from grade_lightning.export import export, main
from grade_lightning.exporting.files import files_of
from tests.exporting.hub import TOKEN, serving
from tests.exporting.test_export import as_the_card_says, logits_of, policy_logits


@pytest.fixture
def logged_in(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    return lambda hub: monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize(("lfs", "xet"), [(False, False), (True, False), (False, True)])
def test_what_arrives_is_what_was_exported(strong, tmp_path, logged_in, monkeypatch, merge, lfs, xet):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", not xet)  # the client has two ways to upload a folder
    with serving(lfs=lfs) as hub:
        logged_in(hub)
        out = export(strong, tmp_path / "out", merge=merge, push="someone/critic")
        assert hub.created["someone/critic"]["visibility"] == "private"
        arrived = hub.repositories["someone/critic"]
        assert sorted(arrived) == files_of(out)
        different = [name for name in arrived if arrived[name] != (out / name).read_bytes()]
        assert different == ([] if merge else ["adapter_config.json"])
        assert ("PUT" in {method for method, _ in hub.requests}) is lfs
        export(strong, tmp_path / "out", merge=merge, push="someone/critic")  # it is there already
    for name, content in arrived.items():
        assert str(tmp_path).encode() not in content, name
    copy = tmp_path / "downloaded"
    for name, content in arrived.items():
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        (copy / name).write_bytes(content)
    if merge:
        assert "AutoModelForCausalLM.from_pretrained('someone/critic'" in arrived["README.md"].decode()
        model = AutoModelForCausalLM.from_pretrained(copy)
    else:
        monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name: {"someone/critic": str(copy)}[name])
        model = as_the_card_says(copy, monkeypatch, lines=4)["model"]
        with pytest.raises(OSError, match="someone/critic/base"):
            AutoPeftModelForCausalLM.from_pretrained(copy)
    own = policy_logits(strong)
    assert (logits_of(model) - own).abs().max() < 2e-5 * own.abs().max()


@pytest.mark.parametrize(
    ("fail", "said"),
    [
        ({"/api/repos/create": 401}, "the token is not accepted: log in with `hf auth login`"),
        ({"/api/repos/create": 403}, "take one with write access"),
        ({"/api/repos/create": 500}, "500"),
        ({"/api/validate-yaml": 400}, "Invalid metadata in README.md"),
        ({"/preupload/": 403}, "take one with write access"),
        ({"/objects/batch": 403}, "take one with write access"),
        ({"/put/": 403}, "model.safetensors'"),  # the client sends several files at once: either may be refused first
        ({"/commit/": 412}, "412"),
    ],
)
def test_every_refusal_is_a_message_and_the_export_stays(strong, tmp_path, logged_in, capsys, fail, said):
    with serving(lfs=True, fail=fail) as hub:
        logged_in(hub)
        assert main([f"run={strong}", f"out={tmp_path / 'out'}", "push=someone/critic"]) == 2
        error = capsys.readouterr().err
        assert f"error: the upload to someone/critic at {hub.url} failed" in error
        assert not hub.repositories.get("someone/critic")
    assert said in error
    assert f"The export is in {tmp_path / 'out'}" in error
    assert TOKEN not in error
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()


def test_command_says_where_it_was_uploaded(strong, tmp_path, logged_in, capsys):
    with serving() as hub:
        logged_in(hub)
        assert main([f"run={strong}", f"out={tmp_path / 'out'}", "merge=true", "push=someone/critic"]) == 0
    assert f"written to {tmp_path / 'out'} and uploaded as someone/critic" in capsys.readouterr().out


def test_a_hub_that_is_not_there(strong, tmp_path, logged_in, monkeypatch):
    with serving() as hub:
        logged_in(hub)
    with pytest.raises(ValueError, match=r"the upload to someone/critic at http://127.* failed .*refused"):
        export(strong, tmp_path / "out", push="someone/critic")
    assert (tmp_path / "out" / "README.md").exists()


def test_without_a_token_nothing_begins(strong, tmp_path, monkeypatch):
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    with pytest.raises(ValueError, match=r"there is none: log in with `hf auth login`, or set HF_TOKEN"):
        export(strong, tmp_path / "out", push="someone/critic")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["critic", "a/b/c", "some one/critic", "someone/", "someone/critic--1"])
def test_names_that_no_repository_has(strong, tmp_path, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    with pytest.raises(ValueError, match="is no name of a repository"):
        export(strong, tmp_path / "out", push=name)
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_run_of_a_model_of_the_hub_names_it_by_its_id(strong, tmp_path):
    """The whole way in processes of their own: the base lies in the client's cache as a download left it."""
    commit = "0123456789abcdef" * 2 + "01234567"
    base = export(strong, tmp_path / "local") / "base"
    cached = tmp_path / "home" / "hub" / "models--someone--critic-base"
    (cached / "refs").mkdir(parents=True)
    (cached / "refs" / "main").write_text(commit)
    (cached / "snapshots").mkdir()
    base.rename(cached / "snapshots" / commit)
    offline = {**os.environ, "HF_HOME": str(tmp_path / "home"), "HF_HUB_OFFLINE": "1"}
    small = ["data.source.train_rows=1300", "data.source.test_rows=24", "data.source.unsupervised_rows=800", "data.reward_rows=1000",
             "data.policy_rows=64", "data.validation_rows=16", "reward.head.heldout_rows=200", "max_steps=1", "max_new_tokens=8",
             "effective_batch_size=4", "rollout.top_k=64", "rollout.min_new_tokens=2", "optimizer.lr=1e-2"]  # fmt: skip
    run, out = tmp_path / "run", tmp_path / "out"

    def call(module: str, *arguments: str, **more: str) -> None:
        done = subprocess.run(
            [sys.executable, "-m", module, *arguments], cwd=Path(__file__).parents[2], env={**offline, **more}, capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]

    call("grade_lightning.run", "model=local", "model.path=someone/critic-base", *small, f"run.dir={run}")
    kept = json.loads((run / "checkpoints" / "last" / "adapter_config.json").read_text())
    assert (kept["base_model_name_or_path"], kept["revision"]) == ("someone/critic-base", commit)
    with serving(lfs=True) as hub:
        more = {"HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN, "HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0"}
        call("grade_lightning.export", f"run={run}", f"out={out}", "push=someone/critic", **more)
        assert {name: (out / name).read_bytes() for name in files_of(out)} == hub.repositories["someone/critic"]
    assert not (out / "base").exists()
    assert json.loads((out / "adapter_config.json").read_text()) == kept
    card = (out / "README.md").read_text()
    assert "base_model: someone/critic-base\n" in card
    assert f"'someone/critic-base', revision='{commit}'" in card
    call("grade_lightning.export", f"run={run}", f"out={tmp_path / 'merged'}", "merge=true")
    base_model = AutoModelForCausalLM.from_pretrained(cached / "snapshots" / commit)
    first, second = PeftModel.from_pretrained(base_model, out), AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    assert torch.allclose(logits_of(first), logits_of(second), atol=1e-4)
