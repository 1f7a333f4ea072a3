"""The first light of a GPU at a size that a processor has: parts, and what is left when one fails."""

import json

import pytest

from experiments.gpu import first_light
from experiments.gpu.first_light import PARTS, SIZES, UPDATES, conclude, markdown, measure, run_part, start_part

TOY = SIZES["toy"]


@pytest.mark.parametrize("case", [pytest.param(case, marks=() if case == "adjoint" else pytest.mark.slow) for case in UPDATES])
def test_an_update_of_each_case(case):
    found = PARTS[f"update {case}"][0](TOY)
    assert found["seconds"] > 0
    assert len(found["rounds"]) == (1 if case == "recompute" else 3)


def test_bf16_has_the_gradient_of_fp32():
    found = PARTS["precision"][0](TOY)
    assert found["cosine"] > 0.98
    assert 0.95 < found["length"] < 1.05


@pytest.mark.slow
def test_decoders_agree():
    found = PARTS["decoding"][0](TOY)
    assert found["tokens"] == TOY.rows * TOY.new_tokens
    assert set(found["seconds"]) == {"growing"}


def test_what_fails_costs_its_own_row(tmp_path, monkeypatch):
    """Seconds of 1, 2, 3, 4 for the paper's methods: 250 x 10 / 3600 hours."""
    seconds = dict(zip((f"update {case}" for case in first_light.TABLE_1), (1.0, 2.0, 3.0, 4.0), strict=True))
    written = []

    def answer(name, limit):
        written.append(json.loads((tmp_path / "first_light.json").read_text()) if (tmp_path / "first_light.json").exists() else None)
        if name not in seconds:
            return {"status": "failed", "seconds": 1.0, "error": "Traceback\nRuntimeError: a | b"}
        return {"status": "done", "seconds": 5.0, "found": {"seconds": seconds[name], "rounds": [], "peak": None, "hops": 2}}

    monkeypatch.setattr(first_light, "start_part", lambda name, size: name)
    monkeypatch.setattr(first_light, "stop_part", lambda name: None)
    monkeypatch.setattr(first_light, "run_part", answer)
    record = measure("toy", ["machine", *seconds], 8.0, tmp_path)
    assert written[0] is None
    assert [len(one["parts"]) for one in written[1:]] == [1, 2, 3, 4]
    assert record["concluded"]["hours of Table 1, one seed, without evaluation"] == pytest.approx(2500 / 3600)
    assert "| machine | failed | 1 | RuntimeError: a / b |" in (tmp_path / "first_light.md").read_text()
    late = measure("toy", ["machine"], 0.1, tmp_path)
    assert late["parts"]["machine"]["status"] == "not run"
    assert conclude(late) == {}
    assert "not run" in markdown(late)


def test_a_size_for_a_gpu_needs_one(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["first_light"])
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(SystemExit):
        first_light.main()
    assert "--size toy is the same on a processor" in capsys.readouterr().err


@pytest.mark.slow
def test_parts_are_processes_with_a_limit(tmp_path):
    assert run_part(start_part("machine", "toy"), 1.0)["status"] == "out of time"
    record = measure("toy", ["machine", "update adjoint", "run"], 8.0, tmp_path)
    assert {part["status"] for part in record["parts"].values()} == {"done"}, record
    assert 0 < record["concluded"]["share of the floor, adjoint"] < 1
