"""Run folders in which every text that a run can hold tries to leave its place."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from tests.reporting.test_report import write_run

SCRIPT = "</script><script>window.hacked=1</script>"
PICTURE = "<img id=hacked src=x onerror='window.hacked=1'>"
FOREIGN = "]]></text></svg><svg onload=window.hacked=1 id=hacked>"
TEXTS = (
    SCRIPT,
    PICTURE,
    FOREIGN,
    "{{ 7 * 7 }}{% raw %}",
    "<!--<script>",
    "\u2028alert(1)\x00\x1b",
    '" onmouseover="window.hacked=1',
    "$\\frac{",
)


def write_hostile(root: Path) -> None:
    """Two methods of two configurations, with hostile names, settings, models, data, prompts, completions and environments."""
    for place, text in enumerate(TEXTS):
        folder = write_run(root, "method", place + 10, model_name=text, variant_hash=f"{place % 4}{text}")
        results = json.loads((folder / "results.json").read_text())
        (folder / "results.json").write_text(json.dumps({**results, "method": f"m{place % 2}{TEXTS[place % 2]}"}))
        lines = [
            {
                "split": split,
                "step": 0,
                "prompt": text,
                "completion": text + split,
                "reward": 0.5,
                "prompt_id": text,
                "kl": 1.0,
                "tokens": 4,
            }
            for split in ("initial", "test")
        ]
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        settings = {"seed": place, f"key{text}": text, "names": {"x": text}, "reward": {"path": f"/a/{text}"}}
        (folder / "config.yaml").write_text(yaml.safe_dump(settings))
        (folder / "environment.json").write_text(json.dumps({"git_revision": text, "platform": text, "packages": {text: text}}))
    (root / f"broken {TEXTS[1].replace('/', '')}").mkdir()
    (root / f"broken {TEXTS[1].replace('/', '')}" / "error.txt").write_text(SCRIPT)
