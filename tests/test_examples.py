"""The examples of the documentation, run as they stand, only smaller."""

from __future__ import annotations

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
CHAT = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
COMMAND = "python -m grade_lightning.run"
# What an example's own choices make impossible is not made smaller.
NEEDS = {"reward.head": "reward=", "data.": "data=prompts", "model.pretrain": "model=local"}


def examples() -> dict[str, str]:
    """The page's complete examples by their headings."""
    found: dict[str, str] = {}
    heading = ""
    for line in re.split(r"(?m)^(?=## |```bash)", PAGE.read_text()):
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


@pytest.mark.slow
@pytest.mark.parametrize("name", examples())
def test_it_runs(name, tmp_path, model_folder, shared_cache):
    shutil.copytree(model_folder, tmp_path / "LM")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "LM")
    tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(tmp_path / "LM")
    save_classifier(tmp_path / "CLASSIFIER")
    environment = {**os.environ, "GRADE_CACHE": shared_cache, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", smaller(examples()[name])],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    assert list(tmp_path.rglob("results.json"))
