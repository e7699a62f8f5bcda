"""Row `shm` of the benches: real processes carry small tensors; what is named is what is timed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benches.harness import (
    BenchError,
    Case,
    Figures,
    Participant,
    Process,
    Skipped,
    Stage,
    run_group,
)
from benches.local_systems import (
    BARE,
    RIVALS,
    SIRA_COPIED,
    SIRA_DIRECT_SYNC,
    SIRA_GRPC,
    SIRA_LENT,
    SIRA_LENT_ASYNC,
    SIRA_LOAN,
    SIRA_SHM,
    SIRA_SYNC,
    ZMQ_IPC,
    lane_start,
)
from benches.placement import APART, PLACEMENTS, ends
from benches.rows import shm
from benches.systems import System

pytestmark = [pytest.mark.integration, pytest.mark.slow]
PARAMS: dict[str, Any] = {
    "payload_bytes": 256 << 10,
    "count": 12,
    "warmup": 3,
    "buffers": 3,
    "calls": 8,
    "receivers": 4,
}


def by_name(system: System) -> str:
    return system.name


@pytest.mark.parametrize(
    "system", [SIRA_LOAN, SIRA_SHM, SIRA_SYNC, SIRA_COPIED, SIRA_GRPC], ids=by_name
)
def test_tensors_are_summed_and_receipts_tell_the_lane_that_is_named(system: System) -> None:
    figures = shm.measure(system, {**PARAMS, "receivers": 0})
    assert figures["gb_per_s"] > 0 and figures["cpu_s_per_gb"] > 0
    assert figures["rtt_us_p99"] >= figures["rtt_us_p50"] > 0


@pytest.mark.parametrize(
    "system", [SIRA_LOAN, SIRA_LENT, SIRA_LENT_ASYNC, BARE, ZMQ_IPC], ids=by_name
)
def test_each_of_four_receivers_sums_everything(system: System) -> None:
    assert shm.one_way(system, PARAMS, receivers=4)["gb_per_s"] > 0


@pytest.mark.parametrize("system", RIVALS, ids=by_name)
def test_each_rival_that_is_installed_carries_the_row(system: System) -> None:
    if missing := system.missing():
        pytest.skip(f"{missing} is not installed")
    figures = shm.measure(system, {**PARAMS, "receivers": 0})
    assert figures["gb_per_s"] > 0 and figures["rtt_us_p50"] > 0


def test_another_lane_than_the_named_one_fails_the_measurement() -> None:
    wrong = replace(SIRA_SHM, start=lane_start("shm", shm="off"))
    with pytest.raises(BenchError, match=r"'shm', 1\) were due, receipts tell \{\('socket', 1\)"):
        shm.one_way(wrong, PARAMS, receivers=1)


def test_a_system_that_is_missing_is_listed_and_says_so() -> None:
    absent = replace(BARE, needs=("no_such_module",))
    case = shm.case("shm", absent, PARAMS, shm.measure)
    assert case.measure is None and case.missing == "no_such_module"


@pytest.mark.parametrize("system", [SIRA_LENT, SIRA_LENT_ASYNC, BARE], ids=by_name)
def test_requests_that_are_written_at_both_ends_alone_are_answered(
    system: System, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shm, "PAST_NODE_SHARE", 0.0)  # too few to say how many go past the node
    figures = shm.measure_touched(system, {**PARAMS, "warmup": 5, "calls": 20})
    assert figures["touched_us_p99"] >= figures["touched_us_p50"] > 0


def affinities(process: Process) -> set[frozenset[int]]:
    """CPUs that each thread of a process may run on."""
    threads = Path(f"/proc/{process.pid}/task").iterdir()
    return {frozenset(os.sched_getaffinity(int(thread.name))) for thread in threads}


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("system", [SIRA_DIRECT_SYNC, BARE], ids=by_name)
@pytest.mark.parametrize("measure", [shm.measure_small, shm.measure_touched])
def test_every_thread_of_an_end_runs_where_the_placement_says_and_a_node_where_it_likes(
    measure: Callable[[System, dict[str, Any]], Figures],
    system: System,
    placement: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if placement == APART and len(os.sched_getaffinity(0)) < 2:
        pytest.skip("two CPUs are needed")
    monkeypatch.setattr(shm, "PAST_NODE_SHARE", 0.0)
    seen: list[tuple[bool, set[frozenset[int]]]] = []
    hear_all = Stage.hear_all

    def look(self: Stage, participants: list[Participant], event: str) -> list[dict[str, Any]]:
        heard = hear_all(self, participants, event)
        if event == "done":
            seen.extend((isinstance(p, Participant), affinities(p)) for p in self.processes)
        return heard

    monkeypatch.setattr(Stage, "hear_all", look)
    sizes = {"payload_bytes": 256 << 10, "message_bytes": 256}
    assert measure(system, {**sizes, "warmup": 5, "calls": 20, "placement": placement})
    cpus = ends({"placement": placement})
    pinned = [{frozenset({cpu})} for cpu in (cpus.answerer, cpus.asker)]
    assert [found for is_end, found in seen if is_end] == pinned
    free = {frozenset(os.sched_getaffinity(0))}
    assert [found for is_end, found in seen if not is_end] == [free] * (system is not BARE)


def test_the_largest_tensors_are_left_out_by_name_where_memory_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shm, "LARGEST_NEEDS_BYTES", 1 << 60)
    params = {**PARAMS, "payload_bytes": shm.LARGEST_MIB << 20}
    with pytest.raises(Skipped, match="GiB of memory are free"):
        shm.measure(BARE, params)
    told: list[str] = []
    case = Case("shm", BARE.name, params, lambda: shm.measure(BARE, params))
    (result,) = run_group([case], repeats=2, tell=told.append)
    assert result.status == "skipped" and "needed" in result.detail and len(told) == 1
