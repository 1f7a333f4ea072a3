"""A device that is not there, in a process that ends with it; and the record of memory."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch.utils.backend_registration

from experiments.gpu.forecast import CASES, HERE, SIZES, markdown


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"), reason="torch has no devices made in Python"
)
@pytest.mark.parametrize("chosen", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_on_a_device_that_is_not_there(chosen):
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-m", chosen, "tests/experiments/absent.py"]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-6000:]


def test_the_record_holds_what_is_said_of_it():
    """Within 15% at every size and case; half a batch at the shape of Qwen3-4B below 24 GB, a whole one above, its weights 8 GB of them."""
    record = json.loads((HERE / "memory.json").read_text())
    assert {(row["size"], row["case"]) for row in record["sizes"]} == {(size, case) for size in SIZES for case in CASES}
    assert all(row["update"] == pytest.approx(row["measured"], rel=0.15) for row in record["sizes"])
    whole, half = (next(row for row in record["qwen3_4b"] if (row["case"], row["rows"]) == ("adjoint", rows)) for rows in (16, 8))
    assert 8.0e9 < whole["weights"] < 8.2e9
    assert half["peak"] < 24e9 < whole["peak"]
    assert markdown(record) == (HERE / "memory.md").read_text()
