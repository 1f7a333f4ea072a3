"""The dependency rule: entries -> methods -> {rollout, models, data, evaluation} -> estimators."""

import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "grade_lightning"
ENTRIES = {"run", "pretrain", "gradients", "report", "generate", "compose", "setup"}  # the last two: what entries share
LAYERS = {"estimators": 0, "data": 1, "models": 1, "rollout": 1, "chain": 1, "rewards": 1, "evaluation": 1, "methods": 2}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(file: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_one_way(file):
    parts = file.relative_to(PACKAGE).with_suffix("").parts
    names = imports(file)
    if parts[0] not in ENTRIES and parts != ("training", "sweep"):  # a Hydra callback
        assert not {name for name in names if name.split(".")[0] in ("hydra", "omegaconf")}, "Hydra appears in entries alone"
    if parts[0] == "estimators":
        foreign = {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) - {"torch", "jaxtyping", "grade_lightning"}
        assert not foreign, "estimators import torch, jaxtyping for annotations, and nothing else"
    own = [name.split(".")[1] for name in names if name.startswith("grade_lightning.")]
    if parts[0] in LAYERS:
        assert all(LAYERS.get(name, 0) <= LAYERS[parts[0]] for name in own)
        assert not set(own) & (ENTRIES | {"training", "records"})


def test_every_file_can_be_held_in_the_head():
    assert {str(file): n for file in FILES if (n := len(file.read_text().splitlines())) > 300} == {}
