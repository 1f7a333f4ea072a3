"""The examples of the documentation, run as they stand, only smaller."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests.entry import SMALL, SMALL_LM
from tests.rewards.vocabularies import save_classifier

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "rewards.md"
OWN = ROOT / "docs" / "own-model.md"
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
COMMAND = "python -m grade_lightning.run"
# What an example's own choices make impossible is not made smaller.
NEEDS = {"reward.head": "reward=", "data.": "data=prompts", "model.pretrain": "model=local"}


def examples(page: Path = PAGE) -> dict[str, str]:
    """A page's complete examples by their headings."""
    found: dict[str, str] = {}
    heading = ""
    for line in re.split(r"(?m)^(?=## |```bash)", page.read_text()):
        if line.startswith("## "):
            heading = line.splitlines()[0][3:]
        elif line.startswith("```bash"):
            name = heading if heading not in found else f"{heading}, second"
            found[name] = line[len("```bash") :].split("```")[0]
    return found


def smaller(script: str) -> str:
    """The same commands with fewer of everything."""
    lines = []
    for line in script.replace("\\\n", " ").splitlines():
        if line.startswith(COMMAND):
            own = [o for o in (*SMALL, *SMALL_LM) if not any(o.startswith(key) and choice in line for key, choice in NEEDS.items())]
            own += ["data.prompt.max_tokens=200"] if "data=prompts" in line else []
            own += ["data.validation_rows=8", "data.test_rows=8"] if "data=prompts" in line and "test_path" not in line else []
            line = f"'{sys.executable}' -m grade_lightning.run {' '.join(own)}{line[len(COMMAND) :]}"  # noqa: PLW2901
        lines.append(line.replace("python - ", f"'{sys.executable}' - ", 1))
    return "\n".join(lines)


def test_five_rewards_and_two_prompt_formats_have_examples():
    text = "\n".join(examples().values())
    assert len(set(re.findall(r"reward=(\w+)", text))) >= 5
    assert "prompt_column=messages" in text
    assert "data.path=prompts.jsonl" in text


def in_folder(command: list[str], folder: Path, cache: str) -> str:
    """What a command prints that must succeed."""
    environment = {**os.environ, "GRADE_CACHE": cache, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("name", examples())
def test_it_runs(name, tmp_path, model_folder, shared_cache):
    shutil.copytree(model_folder, tmp_path / "LM")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "LM")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "LM")
    save_classifier(tmp_path / "CLASSIFIER")
    in_folder(["bash", "-euo", "pipefail", "-c", smaller(examples()[name])], tmp_path, shared_cache)
    assert list(tmp_path.rglob("results.json"))


@pytest.mark.slow
def test_from_prompts_to_a_model_in_python(tmp_path, model_folder, shared_cache):
    """All Python blocks of the page, in order, in one process; only fewer steps."""
    shutil.copytree(model_folder, tmp_path / "LM")
    blocks = re.findall(r"(?s)```python\n(.*?)```", OWN.read_text())
    assert len(blocks) == 4
    script = "\n".join(blocks).replace("max_steps=20", "max_steps=2, rollout__top_k=64")
    printed = in_folder([sys.executable, "-c", script], tmp_path, shared_cache)
    assert "python -m grade_lightning.run model=local" in printed
    assert (tmp_path / "runs" / "calm" / "report" / "report.html").exists()
    assert (tmp_path / "out" / "calm" / "model.safetensors").exists()
    assert json.loads((tmp_path / "runs" / "gradient" / "results.json").read_text())["method"] == "annealed"


@pytest.mark.slow
def test_from_prompts_to_a_model_on_the_command_line(tmp_path, model_folder, shared_cache):
    shutil.copytree(model_folder, tmp_path / "LM")
    (script,) = examples(OWN).values()
    script = script.replace("max_steps=20", "max_steps=2 rollout.top_k=64").replace("python -", f"'{sys.executable}' -")
    assert "report.html" in in_folder(["bash", "-euo", "pipefail", "-c", script], tmp_path, shared_cache)
    assert (tmp_path / "out" / "typed" / "model.safetensors").exists()


@pytest.mark.slow
def test_scripts_of_the_examples_folder(tmp_path, model_folder, shared_cache):
    found = {}
    for script in sorted((ROOT / "examples").glob("*.py")):
        arguments = {"train_on_own_prompts": ["out", "2"]}.get(script.stem, [])
        found[script.stem] = in_folder([sys.executable, str(script), str(model_folder), *arguments], tmp_path, shared_cache)
    assert float(found["gradient_of_one_rollout"].rsplit(" ", 1)[1]) > 0
    assert (tmp_path / "out" / "merged" / "model.safetensors").exists()


@pytest.mark.slow
def test_the_notebook(tmp_path, shared_cache, monkeypatch):
    """Executed anew, only smaller: every cell ends, and what a cell shows last is rendered."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    for name, value in {"GRADE_CACHE": shared_cache, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(ROOT / "examples" / "first_run.ipynb", as_version=4)
    small = {key: value for key, value in (item.split("=") for item in (*SMALL, *SMALL_LM)) if key not in ("max_steps", "reward.head.lr")}
    fewer = ", ".join(f"{key.replace('.', '__')}={value}" for key, value in small.items())
    for cell in notebook.cells:
        cell.source = cell.source.replace('"tiny", method="grade_ste", max_steps=20', f'"tiny", method="grade_ste", max_steps=2, {fewer}')
    nbclient.NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}}, timeout=600).execute()
    kinds = {kind for cell in notebook.cells for output in cell.get("outputs", []) for kind in output.get("data", {})}
    assert {"text/html", "image/png"} <= kinds
    assert (tmp_path / "out" / "first" / "model.safetensors").exists()
