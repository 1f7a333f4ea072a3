"""The dependency rule: entries -> training -> methods -> {chain, rollout, rewards, models, data, evaluation} -> estimators."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "grade_lightning"
SHARED = {"compose", "arguments", "build", "inputs", "setup"}  # by entries
ENTRIES = {"api", "run", "launch", "pretrain", "gradients", "report", "generate", "best_of_n", "export"} | SHARED
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
        bound = parts == ("methods", "__init__")  # names the LightningModules, and imports them when they are asked for
        assert not set(own) & (ENTRIES | {"records"} | (set() if bound else {"training"}))


LIGHT = """
import importlib, pkgutil, sys
for name in sys.argv[1:]:
    package = importlib.import_module(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        importlib.import_module(module.name)
print(*sorted({name.split(".")[0] for name in sys.modules}))
"""


def imported(code: str, *arguments: str) -> set[str]:
    """Packages that a fresh process has imported after running the code, which prints them last."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    return set(done.stdout.splitlines()[-1].split())


def test_settings_records_and_reporting_import_neither_torch_nor_hydra():
    found = imported(LIGHT, "grade_lightning.records", "grade_lightning.reporting", "grade_lightning.settings")
    assert {"grade_lightning", "matplotlib", "scipy"} <= found
    assert not found & {"torch", "hydra", "omegaconf", "lightning", "transformers"}
    assert not imported(LIGHT, "grade_lightning.records") & {"matplotlib", "scipy", "pandas", "pyarrow", "yaml"}


def test_report_says_how_it_is_called_before_it_imports_what_it_draws_with():
    code = """
import sys
from grade_lightning.report import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(*sys.modules)
"""
    assert not imported(code) & {"scipy", "matplotlib", "numpy", "pyarrow", "torch"}


def test_every_file_can_be_held_in_the_head():
    assert {str(file): n for file in FILES if (n := len(file.read_text().splitlines())) > 300} == {}
