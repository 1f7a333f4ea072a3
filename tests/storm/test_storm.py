"""Faults to whole runs: killed, stopped, on full and read-only disks, with damaged files; then the same command again.

24 of them by default; ``GRADE_STORM=200`` makes so many, ``GRADE_STORM_SEED`` another choice.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.storm.faults import METHODS, PHASES, storm
from tests.storm.forked import Forked
from tests.storm.weather import Failed, Weather, can_mount

COUNT, SEED = int(os.environ.get("GRADE_STORM", "24")), int(os.environ.get("GRADE_STORM_SEED", "0"))


def test_a_storm_has_every_method_phase_and_kind():
    faults = storm(200, 0)
    assert faults[:24] == storm(24, 0)
    assert [len(storm(count, 0)) for count in (24, 200)] == [24, 200]
    assert {fault.method for fault in faults} == set(METHODS)
    assert {fault.where for fault in faults if fault.kind == "signal"} == {*PHASES, "records"}
    assert Counter(fault.kind for fault in faults) == {"signal": 120, "damage": 50, "disk": 20, "read-only": 10}


@pytest.fixture(scope="module")
def weather(tmp_path_factory) -> Iterator[Weather]:
    with Forked() as server:
        yield Weather(tmp_path_factory.mktemp("storm"), server)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="forks, /proc and tmpfs")
@pytest.mark.parametrize("kinds", [("signal", "damage"), ("disk", "read-only")])
def test_after_each_fault_the_same_command_ends_as_if_nothing_had_been(kinds, weather, tmp_path):
    faults, ended, failed = [fault for fault in storm(COUNT, SEED) if fault.kind in kinds], Counter(), []
    if "disk" in kinds and not can_mount(tmp_path / "mount"):
        pytest.skip(f"this user may not mount a disk: {len(faults)} of {COUNT} faults are not made")
    for fault in faults:
        try:
            outcome = weather.strike(fault)
        except Failed as error:
            outcome = "failed"
            failed.append(f"{fault}: {error}")
            print(failed[-1], flush=True)
        ended[outcome] += 1
        print(f"{fault}: {outcome}", flush=True)
    print("\n".join(f"{count} {outcome}" for outcome, count in ended.most_common()))
    assert not failed, f"{len(failed)} of {len(faults)} faults failed:\n" + "\n\n".join(failed)
    assert sum(ended.values()) == len(faults) > 0
