"""The row `link` of the benches: joins deliver what they are timed for; a loss is a failure."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from benches import goals, pairs, shm_side
from benches.harness import BenchError, Case, Result
from benches.payload import Lost
from benches.rivals import bare
from benches.rows import link
from benches.systems import System, no_server
from sira import _native

pytestmark = pytest.mark.integration

SMALL, ONE_MIB, LARGE, _LARGEST = link.groups(quick=True)


def figures_of(case: Case, **smaller: Any) -> dict[str, float]:
    assert case.measure is not None, case.missing
    case.params.update(smaller)
    return case.measure()


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.system)
def test_small_messages_are_asked_and_flow_in_the_state_that_is_named(case: Case) -> None:
    figures = figures_of(case, seconds=0.05, states=("idle",))
    wanted = {"idle_us_p50", "idle_us_p99"}
    if case.system != "bare-eventfd":
        wanted |= {"idle_messages_per_s"}
    assert figures.keys() == wanted
    assert all(value > 0 for value in figures.values())


@pytest.mark.parametrize("case", LARGE, ids=lambda case: case.system)
def test_large_messages_are_asked_and_tensors_are_filled_and_summed(case: Case) -> None:
    figures = figures_of(case, seconds=0.05, states=("idle",), warmup=1, count=4)
    assert figures.keys() == {"idle_us_p50", "idle_us_p99", "idle_gb_per_s"}
    assert all(value > 0 for value in figures.values())


def test_the_busy_state_keeps_a_cpu_busy_and_leaves_nothing_behind() -> None:
    case = ONE_MIB[1]
    figures = figures_of(case, states=("busy",), warmup=1, count=4)
    assert figures.keys() == {"busy_gb_per_s"}


class Lossy(bare.PipeJoin):
    """A pipe whose asking end leaves out one message of the one-way phase."""

    def open(self, *, asks: bool, line: Any) -> bare.PipeEnd:
        end = super().open(asks=asks, line=line)
        send = end.send

        def most(number: int, total: int) -> None:
            if number != pairs.WARM_MESSAGES + 10:
                send(number, total)

        if asks:
            end.send = most  # type: ignore[method-assign]
        return end


def test_a_lost_message_fails_the_row_and_says_which() -> None:
    module = "tests.integration.test_bench_link:Lossy"  # a process of its own imports it
    system = System("lossy", "", module, ("numpy",), no_server)
    wanted = f"message {pairs.WARM_MESSAGES + 11} came where {pairs.WARM_MESSAGES + 10} was due"
    with pytest.raises(BenchError, match=wanted):
        link.measure(system, {**SMALL[0].params, "seconds": 0.05, "phases": ("rate",)})


def test_a_join_that_cannot_be_made_fails_the_row_and_says_why() -> None:
    system = System("no-such", "", "benches.shm_side:no_such", ("sira",), no_server)
    with pytest.raises(BenchError, match="no_such"):
        link.measure(system, SMALL[0].params)


def test_what_was_posted_and_not_taken_is_a_failure_of_the_row() -> None:
    join = shm_side.blocking({"message_bytes": 256})
    writer = join.there.writer()
    assert writer.post(_native.ShmPost("a.b", b"x"), 0) > 0
    with pytest.raises(Lost, match="1 posted, 0 taken, 1 left"):
        join.close()


def test_a_large_message_of_two_halves_is_a_loss() -> None:
    message = np.zeros(4_096, np.uint8)
    pairs.stamp(message, 7, 0)
    pairs.check_stamp(message)
    message[-pairs.HEAD.size] = 8
    with pytest.raises(Lost, match="the head of one"):
        pairs.check_stamp(message)


def test_goals_of_the_link_are_ratios_to_the_bare_pipe_of_the_same_size_and_state() -> None:
    def result(system: str, size: int, **samples: list[float]) -> Result:
        return Result("link", system, {"payload_bytes": size}, samples=samples)

    mib = 1 << 20
    results = [
        result("link-blocking", 256, idle_us_p50=[10.0], busy_us_p50=[6.0]),
        result("bare-pipe", 256, idle_us_p50=[8.0], busy_us_p50=[4.0]),
        result("link-adaptive", 16 * mib, idle_gb_per_s=[9.0]),
        result("bare-pipe", 16 * mib, idle_gb_per_s=[10.0]),
        result("link-adaptive", 64 * mib, idle_gb_per_s=[8.0]),
    ]
    found = {v.goal.title: (v.value, v.met) for v in goals.verdicts(results)}
    assert found["link, RTT p50 blocking, 256 B, idle, of the bare pipe's"] == (1.25, True)
    assert found["link, RTT p50 blocking, 256 B, busy, of the bare pipe's"] == (1.5, False)
    assert found["link, filled and read, 16 MiB, idle, of the bare pipe's"] == (0.9, True)
    assert found["link, filled and read, 64 MiB, idle, of the bare pipe's"][1] is None
