"""What is exported is the policy of the run, to whoever has transformers and PEFT alone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import AutoPeftModelForCausalLM
from safetensors.torch import load_file

from grade_lightning.export import export, main, parse
from grade_lightning.exporting.files import MARKER, replacing
from grade_lightning.models.cache import cache_root, files_fingerprint
from grade_lightning.run import execute
from grade_lightning.settings.of_run import settings_of_run
from grade_lightning.setup import inputs, objects
from tests.entry import SMALL, compose_run
from tests.exporting.conftest import QUICK

IDS = torch.tensor([[5, 260, 17, 300, 44, 9, 280, 31], [7, 7, 130, 290, 301, 12, 88, 3]])


def policy_logits(run: Path, checkpoint: str = "last", *, reference: bool = False) -> torch.Tensor:
    """[2, 8, V] of the run's own policy, or of its reference."""
    policy = objects(inputs(settings_of_run(run)), judges=False).policy
    policy.load_adapter(run / "checkpoints" / checkpoint / "adapter_model.safetensors")
    mask = torch.ones_like(IDS, dtype=torch.bool)
    with torch.no_grad():
        if reference:
            with policy.reference():
                return policy.logits(policy.hidden(policy.embed(IDS), mask))
        return policy.logits(policy.hidden(policy.embed(IDS), mask))


def as_the_card_says(out: Path, monkeypatch, lines: int = 3) -> dict:
    """What the card's own lines make, run in the export's folder."""
    code = re.search(r"```python\n(.*?)\n```", (out / "README.md").read_text(), flags=re.DOTALL)
    assert code is not None
    assert len([line for line in code[1].splitlines() if line and not line.startswith("from ")]) <= lines
    monkeypatch.chdir(out)
    made: dict = {}
    exec(code[1], made)
    return made


def logits_of(model) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(input_ids=IDS).logits.float()


@pytest.mark.parametrize("checkpoint", ["last", "best"])
@pytest.mark.parametrize("merge", [False, True])
def test_fp32_logits_are_those_of_the_policy(strong, tmp_path, monkeypatch, merge, checkpoint):
    out = export(strong, tmp_path / "out", merge=merge, checkpoint=checkpoint)
    made = as_the_card_says(out, monkeypatch)
    own, found = policy_logits(strong, checkpoint), logits_of(made["model"])
    scale = own.abs().max()
    assert (found - own).abs().max() < 2e-5 * scale
    assert (found - policy_logits(strong, reference=True)).abs().max() > 0.1 * scale
    assert {weight.dtype for weight in made["model"].parameters()} == {torch.float32}
    texts = ["I watched The Broken Garden.", "It looked cheap"]
    assert made["tokenizer"](texts, padding=True)["input_ids"] == objects_tokenizer(strong)(texts, padding=True)["input_ids"]


def objects_tokenizer(run: Path):
    return objects(inputs(settings_of_run(run)), judges=False).base.tokenizer


def test_bf16_adapter_gives_the_logits_of_the_policy(strong16, tmp_path, monkeypatch):
    own, found = policy_logits(strong16), logits_of(as_the_card_says(export(strong16, tmp_path / "out"), monkeypatch)["model"])
    assert (found - own).abs().max() <= 2**-6 * own.abs().max()  # a few units in the last place of bf16, which are 2^-8
    assert (found - policy_logits(strong16, reference=True)).abs().max() > 0.1 * own.abs().max()


def test_bf16_merge_rounds_the_exact_sum_once_and_says_what_that_took(strong16, tmp_path, monkeypatch):
    out = export(strong16, tmp_path / "out", merge=True)
    model = as_the_card_says(out, monkeypatch)["model"]
    policy = objects(inputs(settings_of_run(strong16)), judges=False).policy
    policy.load_adapter(strong16 / "checkpoints" / "last" / "adapter_model.safetensors")
    merged, lost, total = dict(model.named_parameters()), 0.0, 0.0
    assert {weight.dtype for weight in merged.values()} == {torch.bfloat16}
    adapters = policy.trainable()
    for name in [name for name in adapters if "lora_A" in name]:
        a, b = adapters[name].double(), adapters[name.replace("lora_A", "lora_B")].double()
        layer = name.removeprefix("base_model.model.").split(".lora_A")[0]
        before = policy.lm.get_submodule(f"{layer}.base_layer").weight.double()
        delta = 2.0 * b @ a  # alpha / r
        nearest = (before + delta).to(torch.bfloat16)
        wrong = (merged[f"{layer}.weight"] != nearest).double().mean()
        assert wrong < 1e-3  # ties that fp32 and fp64 break differently
        lost += (merged[f"{layer}.weight"].double() - before - delta).square().sum()
        total += delta.square().sum()
    assert f"the error is {(lost / total) ** 0.5:.0%} as long as" in (out / "README.md").read_text()
    own, found = policy_logits(strong16), logits_of(model)
    assert (found - own).abs().max() <= 2**-5 * own.abs().max()


def test_an_adapter_with_a_base_of_its_own_names_it_where_it_lies(strong, tmp_path, monkeypatch):
    out = export(strong, tmp_path / "out")
    config = json.loads((out / "adapter_config.json").read_text())
    assert Path(config["base_model_name_or_path"]) == out / "base"
    assert files_fingerprint(out / "base") == json.loads((strong / "results.json").read_text())["model_fingerprint"]
    monkeypatch.chdir(tmp_path)
    own = policy_logits(strong)
    assert (logits_of(AutoPeftModelForCausalLM.from_pretrained(out)) - own).abs().max() < 2e-5 * own.abs().max()
    moved = tmp_path / "moved"
    out.rename(moved)
    found = logits_of(as_the_card_says(moved, monkeypatch)["model"])
    assert (found - own).abs().max() < 2e-5 * own.abs().max()


def test_nothing_names_a_folder_of_this_machine(strong, tmp_path):
    merged = export(strong, tmp_path / "merged", merge=True)
    adapter = export(strong, tmp_path / "adapter")
    cache = str(cache_root())
    for file in [*merged.rglob("*"), *adapter.rglob("*"), *(strong / "checkpoints").rglob("adapter_config.json")]:
        if file.is_file():
            content = file.read_bytes()
            assert cache.encode() not in content, file
            assert str(strong).encode() not in content, file
            assert str(tmp_path).encode() not in content or file == adapter / "adapter_config.json"
    config = json.loads((strong / "checkpoints" / "last" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] is None
    assert not list(strong.rglob("checkpoints/*/README.md"))


def test_only_an_earlier_export_is_replaced(strong, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty and no export"):
        export(strong, out)
    (out / "notes.txt").unlink()
    export(strong, out, merge=True)
    assert (out / "model.safetensors").exists()
    export(strong, out)
    assert not (out / "model.safetensors").exists()
    (out / "base" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=re.escape("holds base/notes.txt, which no export wrote")):
        export(strong, out)
    assert (out / "base" / "notes.txt").read_text() == "mine"
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ValueError, match="is a file"):
        export(strong, tmp_path / "file")


def test_a_failure_leaves_the_earlier_export(tmp_path):
    out = tmp_path / "out"
    with replacing(out) as folder:
        (folder / MARKER).write_text('{"files": []}')

    def fail() -> None:
        with replacing(out) as folder:
            (folder / "half").write_text("")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert [file.name for file in tmp_path.rglob("*")] == ["out", MARKER]
    with pytest.raises(ValueError, match="no export wrote"), replacing(out):
        (out / "meanwhile").write_text("mine")
    assert (out / "meanwhile").read_text() == "mine"
    assert {file.name for file in tmp_path.iterdir()} == {"out"}


def test_another_base_of_the_same_name_is_refused(strong, model_folder, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="is not the base that"):
        export(strong, tmp_path / "out", base=model_folder)
    assert not (tmp_path / "out").exists()
    copy = tmp_path / "elsewhere"
    shutil.copytree(export(strong, tmp_path / "out") / "base", copy)
    out = export(strong, tmp_path / "out", base=copy)
    own = policy_logits(strong)
    assert (logits_of(as_the_card_says(out, monkeypatch)["model"]) - own).abs().max() < 2e-5 * own.abs().max()


def test_adapter_that_is_no_number_is_not_merged(strong, tmp_path):
    from safetensors.torch import save_file

    copy = tmp_path / "run"
    shutil.copytree(strong, copy)
    file = copy / "checkpoints" / "last" / "adapter_model.safetensors"
    save_file({name: weight * float("nan") for name, weight in load_file(file).items()}, file)
    with pytest.raises(ValueError, match="NaN"):
        export(copy, tmp_path / "out", merge=True)
    assert {file.name for file in tmp_path.iterdir()} == {"run"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=x"], "run= is missing"), (["run={run}"], "out= is missing"), (["run={run}", "out={out}", "merge=1"], "use true or false"),
        (["run={run}", "out={out}", "speed=1"], "not understood"), (["run={run}", "out="], "not understood"),
        (["run={out}", "out={out}"], "not a run folder"), (["run={run}", "out={out}", "checkpoint=third"], "last, best"),
    ],
)  # fmt: skip
def test_requests_that_cannot_be_met(strong, arguments, message, tmp_path, capsys):
    assert main([argument.format(run=strong, out=tmp_path / "out") for argument in arguments]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_unfinished_runs_and_runs_without_weights(strong, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(strong, copy)
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(ValueError, match="holds no adapter"):
        export(copy, tmp_path / "out")
    (copy / "results.json").unlink()
    with pytest.raises(ValueError, match="no finished run"):
        export(copy, tmp_path / "out")


def test_command_says_where(strong, tmp_path, capsys):
    assert main([f"run={strong}", f"out={tmp_path / 'out'}", "merge=true"]) == 0
    assert f"written to {tmp_path / 'out'}" in capsys.readouterr().out
    assert parse(["run=a", "out=b"]).merge is False


def test_help_imports_nothing_heavy():
    code = "import sys\nfrom grade_lightning.export import main\nassert main(['--help']) == 0\nprint(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert "USER/NAME" in done.stdout
    assert not set(done.stdout.splitlines()[-1].split()) & {"torch", "transformers", "peft", "huggingface_hub", "hydra"}


def test_a_base_that_was_named_by_a_relative_folder(strong, tmp_path, monkeypatch):
    """The run's folder does not name it, the export brings it along, and from elsewhere it has to be said where it is."""
    base = export(strong, tmp_path / "first") / "base"
    base.rename(tmp_path / "relmodel")
    monkeypatch.chdir(tmp_path)
    execute(compose_run(["model=local", "model.path=relmodel", *SMALL, *QUICK, "max_steps=1"], Path("run")))
    for name in ("last", "best"):
        config = json.loads((tmp_path / "run" / "checkpoints" / name / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] is None
    out = export(Path("run"), Path("out"))
    assert files_fingerprint(out / "base") == files_fingerprint(tmp_path / "relmodel")
    card = (out / "README.md").read_text()
    assert "`relmodel`, a local model" in card
    assert "base_model" not in card.split("---")[1]
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    with pytest.raises(ValueError, match=r"is not where it was: .*relmodel.*Say where it is now: base=DIR"):
        export(tmp_path / "run", Path("out"))
    assert main([f"run={tmp_path / 'run'}", "out=out", f"base={tmp_path / 'relmodel'}"]) == 0
    again = elsewhere / "out"
    assert Path(json.loads((again / "adapter_config.json").read_text())["base_model_name_or_path"]) == again / "base"
    own = logits_of(as_the_card_says(out, monkeypatch)["model"])
    assert torch.equal(logits_of(as_the_card_says(again, monkeypatch)["model"]), own)
