"""What a report says first, and the frontier that it is read from."""

from __future__ import annotations

import json

import numpy as np
import pytest

from grade_lightning.reporting.answer import answer
from grade_lightning.reporting.cautions import NOT_COMPARABLE, mixed
from grade_lightning.reporting.frontier import frontier
from grade_lightning.reporting.lines import kl_of, lines
from grade_lightning.reporting.output import tables
from grade_lightning.reporting.palette import looks
from grade_lightning.reporting.read import read_runs
from grade_lightning.reporting.significance import holm, welch
from grade_lightning.reporting.variants import group
from tests.reporting.test_report import write_run


def run_at(root, method: str, seed: int, *, kls, rewards, kl_coef: float = 0.1, **changes):
    """A run whose validations are at these KLs and rewards, and whose test is at the last of them."""
    folder = write_run(root, method, seed, variant_hash=f"{method}{kl_coef}", **changes)
    folder = folder.rename(folder.with_name(f"{method}-{kl_coef}-{seed}"))
    results = json.loads((folder / "results.json").read_text())
    results["validation"] = [
        {"step": 10 * n, "kl_mean": kl, "reward_mean": reward, "length_mean": 8.0}
        for n, (kl, reward) in enumerate(zip(kls, rewards, strict=True))
    ]
    del results["test"]["per_prompt"]  # the tests are over seeds
    results["test"] |= {"kl_mean": kls[-1], "reward_mean": rewards[-1], "length_mean": 8.0}
    (folder / "results.json").write_text(json.dumps(results))
    (folder / "config.yaml").write_text(f"seed: {seed}\nkl_coef: {kl_coef}\nlr: 1\n")
    return folder


def said(root) -> list[str]:
    runs = read_runs(root)[0]
    variants = group(runs)
    return answer(variants, tables(variants), [w for w in mixed(runs) if w.endswith(NOT_COMPARABLE)])


def two_methods(root) -> None:
    """RLOO ends higher but pays more; at equal KL GRADE-STE is higher."""
    for seed in (1, 2, 3, 4):
        run_at(root, "rloo", seed, kls=[0, 0.5, 1.0], rewards=[0.4, 0.6 + 0.01 * seed, 0.9 + 0.01 * seed])
        run_at(root, "grade_ste", seed, kls=[0, 0.2, 0.4], rewards=[0.4, 0.6 + 0.01 * seed, 0.7 + 0.01 * seed])


def test_the_last_step_and_equal_kl_are_told_apart(tmp_path):
    two_methods(tmp_path)
    last, equal, sure = said(tmp_path)
    assert last.startswith("After the last step RLOO (0.925")
    assert "above GRADE-STE by 0.200 (p < 0.001)" in last
    # At 0.4, GRADE-STE's whole reach: RLOO is at 0.4 + (0.2 + 0.01 s) 0.8, GRADE-STE at 0.7 + 0.01 s.
    rloo, ste = [0.4 + 0.8 * (0.2 + 0.01 * s) for s in (1, 2, 3, 4)], [0.7 + 0.01 * s for s in (1, 2, 3, 4)]
    p = holm([welch(rloo, ste).p])[0]
    assert f"RLOO is {np.mean(ste) - np.mean(rloo):.3f} below GRADE-STE at 0.40" in equal
    assert p < 0.001
    assert "p < 0.001" in equal
    assert sure.startswith("How sure: 1 of 1 pairs differ")


def test_one_seed_says_nothing_about_a_method(tmp_path):
    run_at(tmp_path, "rloo", 1, kls=[0, 1.0], rewards=[0.4, 0.9])
    run_at(tmp_path, "grade_ste", 1, kls=[0, 0.4], rewards=[0.4, 0.7])
    last, equal, sure = said(tmp_path)
    assert "one seed" in equal
    assert "single seed, which says nothing about a method" in sure
    assert "over 1 seed," in last


def test_nothing_is_ordered_across_experiments(tmp_path):
    run_at(tmp_path, "rloo", 1, kls=[0, 1.0], rewards=[0.4, 0.9])
    run_at(tmp_path, "grade_ste", 1, kls=[0, 0.4], rewards=[0.4, 0.7], protocol="paper")
    sentences = said(tmp_path)
    assert "not of one experiment" in sentences[0]
    assert not any("above" in sentence for sentence in sentences)


def test_one_run_and_no_test(tmp_path):
    run_at(tmp_path / "one", "rloo", 1, kls=[0, 1.0], rewards=[0.4, 0.9])
    assert "no comparison" in said(tmp_path / "one")[2]
    write_run(tmp_path / "none", "rloo", 1, test=None)
    assert "No run was tested" in said(tmp_path / "none")[0]
    assert all(len(said(tmp_path / name)) == 3 for name in ("one", "none"))


def test_weights_of_one_method_are_one_line_of_tests(tmp_path):
    for seed in (1, 2):
        for coef, kl, reward in ((0.5, 0.1, 0.6), (0.1, 0.4, 0.8), (0.02, 1.0 + 0.5 * seed, 0.9)):
            run_at(tmp_path, "rloo", seed, kls=[0, kl], rewards=[0.4, reward], kl_coef=coef)
    variants = group(read_runs(tmp_path)[0])
    (line,) = lines(variants)
    assert (line.label, line.weights, sorted(line.places)) == ("RLOO", True, [0, 1, 2])
    assert len(line.ends) == 6
    kls, means, lows, highs = zip(*line.stations, strict=True)
    assert (kls[0], kls[-1]) == pytest.approx((0.1, 2.0))
    assert lows == means == highs  # of two seeds nothing is known but their curve
    assert np.interp([0.1, 0.4], kls, means) == pytest.approx([0.6, 0.8], abs=0.01)
    _, equal, _ = said(tmp_path)
    assert "nothing can be compared" in equal


def test_a_curve_has_the_initial_policys_reward_where_it_has_two_weights_and_needs_four_runs(tmp_path):
    for seed in (1, 2, 3):
        for coef, kl in ((0.5, 0.16), (0.1, 0.64)):
            run_at(tmp_path / "two", "rloo", seed, kls=[0, kl], rewards=[0.4, 0.5 + 0.5 * kl**0.5], kl_coef=coef)
    variants = group(read_runs(tmp_path / "two")[0])
    (line,) = lines(variants, "completion")  # of 8 tokens
    assert (line.stations[0][0], line.stations[-1][0]) == pytest.approx((8 * 0.16, 8 * 0.64))
    assert [station[1:] for station in (line.stations[0], line.stations[-1])] == [pytest.approx([r] * 3) for r in (0.7, 0.9)]
    for coef, kl in ((0.5, 0.16), (0.1, 0.64)):
        run_at(tmp_path / "few", "rloo", 1, kls=[0, kl], rewards=[0.4, 0.8], kl_coef=coef)
    (line,) = lines(group(read_runs(tmp_path / "few")[0]))
    assert (line.stations, sorted(line.ends)) == ([], [(0.16, 0.8), (0.64, 0.8)])


def test_what_cannot_be_compared_says_why(tmp_path):
    """KLs that do not meet, by methods with a curve each."""
    for seed in (1, 2):
        for method, kls in (("rloo", (0.1, 0.2)), ("grade_ste", (0.5, 1.0))):
            for coef, kl in zip((0.5, 0.1), kls, strict=True):
                run_at(tmp_path, method, seed, kls=[0, kl], rewards=[0.4, 0.6 + kl / 10], kl_coef=coef)
    assert "beside RLOO there is GRADE-STE (none: 0.50 is above 0.20)" in said(tmp_path)[1]


def test_a_figure_names_what_has_no_curve(tmp_path):
    """Three weights of one seed are points alone; a run without a configuration is none of them."""
    for coef, kl in ((0.5, 0.1), (0.1, 0.4), (0.02, 1.0)):
        run_at(tmp_path, "rloo", 1, kls=[0, kl], rewards=[0.4, 0.8], kl_coef=coef)
    (run_at(tmp_path, "rloo", 2, kls=[0, 0.4], rewards=[0.4, 0.8], kl_coef=0.1) / "config.yaml").unlink()
    variants = group(read_runs(tmp_path)[0])
    figure = frontier(variants, dict(zip([v.label for v in variants], looks([v.method for v in variants]), strict=True)))
    assert "RLOO" in " ".join(text.get_text() for text in figure.axes[0].texts)


def test_kl_of_a_completion():
    assert kl_of({"kl_mean": 0.5, "length_mean": 8.0}, "completion") == 4.0
    assert kl_of({"kl_mean": 0.5, "length_mean": 8.0, "kl_sequence_mean": 3.9}, "completion") == 3.9
    assert kl_of({"kl_mean": 0.5}, "completion") is None
