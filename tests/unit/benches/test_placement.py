"""Placements of a round trip: where its ends run, which goal is about which, what is printed."""

from __future__ import annotations

import io
import json
import os
from typing import Any

import pytest

from benches import goals, report
from benches.figure import MIB, Figure
from benches.goals_local import LOCAL_GOALS
from benches.harness import Case, Result, Skipped
from benches.placement import APART, PLACEMENTS, TOGETHER, Ends, ends
from benches.rows import shm

MACHINE: dict[str, Any] = {
    "cpu": "x", "cores": 2, "memory_gib": 1, "kernel": "6", "commit": "abc",
    "eventfd_round_trip_us": 1.0, "memcpy_gb_per_s": {"warm": 1.0, "new_pages": 1.0},
    "load_average": [0.0], "malloc_environment": {}, "versions": {},
}  # fmt: skip
RUN: dict[str, Any] = {"repeats": 1, "load_average_after": [0.0]}


def asked(system: str, placement: str | None, **samples: list[float]) -> Result:
    params: dict[str, Any] = {"payload_bytes": 256}
    if placement is not None:
        params["placement"] = placement
    return Result("shm", system, params, samples=samples)


def value_of(results: list[Result], title: str) -> tuple[float, bool | None]:
    (found,) = [v for v in goals.verdicts(results) if v.goal.title == title]
    return found.value, found.met


def may_run_on(monkeypatch: pytest.MonkeyPatch, *cpus: int) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(cpus))


def test_the_ends_run_on_cpus_that_this_process_may_use(monkeypatch: pytest.MonkeyPatch) -> None:
    may_run_on(monkeypatch, 9, 3, 5)
    assert ends({"placement": APART}) == Ends(answerer=3, asker=5)
    assert ends({"placement": TOGETHER}) == Ends(answerer=3, asker=3)
    assert ends({}) == Ends(None, None)


def test_two_ends_are_not_apart_on_one_cpu_and_the_case_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    may_run_on(monkeypatch, 3)
    assert ends({"placement": TOGETHER}) == Ends(3, 3)
    with pytest.raises(Skipped, match="two CPUs are needed"):
        ends({"placement": APART})


def test_a_goal_is_about_the_placement_that_it_names() -> None:
    results = [
        asked("sira-direct-blocking", None, rtt_us_p50=[1_000.0]),
        asked("sira-direct-blocking", APART, rtt_us_p50=[60.0, 66.0, 50.0]),
        asked("bare", APART, rtt_us_p50=[50.0, 60.0, 50.0]),
        asked("sira-direct-blocking", TOGETHER, rtt_us_p50=[14.0, 15.0, 16.0]),
        asked("bare", TOGETHER, rtt_us_p50=[7.0, 7.5, 8.0]),
    ]
    apart, together = (f"shm, RTT 256 B, {each}, blocking, of bare's" for each in PLACEMENTS)
    assert value_of(results, apart) == (pytest.approx(1.1), True)
    assert value_of(results, together) == (pytest.approx(2.0), False)
    value, met = value_of(results[:3], together)
    assert value != value and met is None  # not measured
    assert Figure("shm", "sira-direct-blocking", "rtt_us_p50").samples(results) == [1_000.0]


def test_a_goal_may_be_a_difference_within_each_repeat() -> None:
    """The median of 40, 70 and 45; of the medians it would be 50."""
    results = [
        asked("sira-direct", APART, rtt_us_p50=[100.0, 130.0, 95.0]),
        asked("bare", APART, rtt_us_p50=[60.0, 60.0, 50.0]),
    ]
    title = "shm, RTT 256 B, apart, asyncio, µs more than bare's"
    assert value_of(results, title) == (pytest.approx(45.0), True)
    results[1].samples["rtt_us_p50"] = [10.0, 10.0, 10.0]
    assert value_of(results, title) == (pytest.approx(90.0), False)


def cases() -> list[Case]:
    return [each for group in shm.groups(quick=True) for each in group]


def test_systems_are_interleaved_with_those_of_their_size_and_placement_alone() -> None:
    for group in shm.groups(quick=True):
        assert len({(c.params["payload_bytes"], c.params.get("placement")) for c in group}) == 1
        assert len({c.system for c in group}) == len(group) > 1


def test_round_trips_without_much_to_move_have_a_placement_and_nothing_else_has() -> None:
    placed = [c for c in cases() if "placement" in c.params]
    for size in (256, MIB, 16 * MIB, 1024 * MIB):
        systems = {
            place: {
                c.system
                for c in placed
                if (c.params["payload_bytes"], c.params["placement"]) == (size, place)
            }
            for place in PLACEMENTS
        }
        never_sleeps = {"sira-direct-spinning"} if size == 256 else set()
        assert systems[APART] - systems[TOGETHER] == never_sleeps
        assert systems[TOGETHER] and systems[TOGETHER] <= systems[APART]
    assert {c.params["payload_bytes"] for c in placed} == {256, MIB, 16 * MIB, 1024 * MIB}
    for unplaced in (c for c in cases() if "placement" not in c.params):
        assert "count" in unplaced.params or "send_s" in unplaced.params  # tensors, or a flow


def test_every_goal_of_the_row_is_about_cases_that_it_has() -> None:
    have = {(c.system, c.params["payload_bytes"], c.params.get("placement")) for c in cases()}
    figures = [f for goal in LOCAL_GOALS for f in (goal.ours, goal.theirs) if f and f.row == "shm"]
    for figure in figures:
        size = 256 if figure.size_mib is None else figure.size_mib * MIB
        assert (figure.system, size, figure.placement) in have, figure


def test_the_placement_is_printed_and_saved_and_each_stands_with_its_like() -> None:
    results = [
        asked("sira-direct", None, messages_per_s=[1_111.0]),
        asked("sira-direct", APART, rtt_us_p50=[90.0]),
        asked("bare", APART),
        asked("sira-direct", TOGETHER, rtt_us_p50=[20.0]),
    ]
    results[2].status, results[2].detail = "skipped", "two CPUs are needed"
    out = io.StringIO()
    report.print_tables(results, [], MACHINE, RUN, out, width=160)
    flow, placed = out.getvalue().split("shm: ")[1:]
    assert "placement" not in flow and "rtt" not in flow and "1,111" in flow
    lines = [[cell.strip() for cell in line.split("│")] for line in placed.splitlines()]
    assert [line[1:4] for line in lines if len(line) > 3] == [
        ["apart", "sira-direct", "90"],
        ["apart", "bare", "-"],
        ["together", "sira-direct", "20"],
    ]
    assert "skipped: two CPUs are needed" in placed
    saved = [json.loads(line) for line in report.json_lines(results, MACHINE, RUN)]
    placements = [line["params"].get("placement") for line in saved]
    assert placements == [None, APART, APART, TOGETHER]
