"""shm: large tensors between two processes of one host, by reference and by every other way.

Each size is filled where it is sent from and summed where it arrives: one way (1 to 256 MiB), as
request and reply (1 and 16 MiB, 1 GiB, both filled and both summed), and to four (16 MiB). Of 256 B
a flow one way, numbered, none lost. And what asking alone takes, with the two ends on two CPUs and
on one: 256 B, and requests of 1 and 16 MiB and 1 GiB of which both ends are written and looked at,
answered with 16 bytes.
"""

from __future__ import annotations

from typing import Any

import psutil

import sira
from benches.harness import BenchError, Case, Figures, Skipped, Stage
from benches.local_systems import (
    BARE,
    BARE_COPIED,
    FLIGHT,
    LANES,
    LENT,
    PAST_NODE,
    RIVALS,
    SIRA_DIRECT,
    SIRA_DIRECT_SYNC,
    SIRA_LOAN,
    SIRA_SPINNING,
    TOUCHED,
    WAITS,
)
from benches.placement import APART, PLACEMENTS, ends
from benches.rows import rate, rtt
from benches.systems import System, case

SUMMARY = "tensors of one host, filled and summed: one way, asked, and to four at 16 MiB"
MIB = 1 << 20
SMALL_BYTES = 256
ASKED_MIB = (1, 16)
FANNED_MIB = 16
RECEIVERS = 4
PAST_NODE_SHARE = 0.9  # of small messages: the first few go by the node
SYSTEMS = (*LANES, *RIVALS)
FLOWING = [s for s in SYSTEMS if s not in (SIRA_LOAN, BARE_COPIED, FLIGHT)]
"""Small messages one way: no loan is for them, and Flight has batches."""
ASKING = [s for s in (*LANES, *WAITS, *RIVALS) if s not in (SIRA_LOAN, BARE_COPIED)]
"""Small requests. Who never sleeps has no place on a CPU with the other: it would wait for a
slice of the scheduler's, which says nothing of the lane."""
TOUCHING = (BARE, *TOUCHED)
LARGEST_MIB = 1024
LARGEST_SYSTEMS = (SIRA_DIRECT_SYNC, SIRA_DIRECT, BARE, BARE_COPIED)
LARGEST_NEEDS_BYTES = 10 << 30
"""Free memory to ask with the largest: an array and two pieces of shared memory at each end."""


def groups(quick: bool) -> list[list[Case]]:
    """256 B one way, then asked in each placement; tensors by size; loans by size and placement."""
    flow = {
        "payload_bytes": SMALL_BYTES,
        "message_bytes": SMALL_BYTES,
        "warmup": 300,
        "send_s": 0.7 if quick else 3.0,
    }
    made = [[case("shm", s, flow, measure_flow) for s in FLOWING]]
    turns = {"warmup": 300, "calls": 1_000 if quick else 5_000}
    for place in PLACEMENTS:
        small = {
            "payload_bytes": SMALL_BYTES,
            "message_bytes": SMALL_BYTES,
            **turns,
            "placement": place,
        }
        asking = [s for s in ASKING if place == APART or s is not SIRA_SPINNING]
        made.append([case("shm", s, small, measure_small) for s in asking])
    for size_mib in (1, 16, 64, 256):
        moved_mib = (256 if quick else 2048) if size_mib <= 64 else (1024 if quick else 2048)
        params = {
            "payload_bytes": size_mib * MIB,
            "count": moved_mib // size_mib,
            # All memory that a flow needs has been met by then, at both ends; bare's has before.
            "warmup": 16 if size_mib <= 64 else 10,
            "buffers": 4 if size_mib <= 64 else 2,
            "calls": ((100 if quick else 500) if size_mib == 1 else (20 if quick else 100))
            if size_mib in ASKED_MIB
            else 0,
            "receivers": RECEIVERS if size_mib == FANNED_MIB else 0,
        }
        made.append([case("shm", s, params, measure) for s in (*LENT, *SYSTEMS)])
    largest = {
        "payload_bytes": LARGEST_MIB * MIB,
        "count": 0,
        "warmup": 2,
        "buffers": 2,
        "calls": 2 if quick else 6,
        "receivers": 0,
    }
    made.append([case("shm", s, largest, measure) for s in LARGEST_SYSTEMS])
    for size_mib in (*ASKED_MIB, LARGEST_MIB):
        for place in PLACEMENTS:
            lent = {"payload_bytes": size_mib * MIB, **turns, "placement": place}
            made.append([case("shm", s, lent, measure_touched) for s in TOUCHING])
    return made


def measure_flow(system: System, params: dict[str, Any]) -> Figures:
    """Small messages one way."""
    flow = rate.measure(system, params, after=check_past_node if system in PAST_NODE else None)
    kept = ("messages_per_s", "cpu_us_per_message", "lost")
    return {name: flow[name] for name in kept}


def measure_small(system: System, params: dict[str, Any]) -> Figures:
    """Request and reply of bytes."""

    def past_node(url: str) -> None:
        check_past_node(url, 2 * (params["warmup"] + params["calls"]))

    after = past_node if system in (*PAST_NODE, *WAITS) else None
    found = rtt.measure(system, params, after=after)
    return {"rtt_us_p50": found["latency_us_p50"], "rtt_us_p99": found["latency_us_p99"]}


def check_past_node(url: str, due: int) -> None:
    """Ask the node how many messages went past it.

    Raises:
        BenchError: of `due` too few.
    """
    with sira.connect_sync(url) as bus:
        count = bus.stats().values["messages_direct"]
    if count < PAST_NODE_SHARE * due:
        raise BenchError(f"{count:.0f} of {due} messages went past the node")


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Filled and summed: one way, asked, and to several, as far as the size is for that."""
    _check_memory(params)
    figures = one_way(system, params, receivers=1) if params["count"] else {}
    if params["calls"] and system not in LENT:
        figures |= asked(system, params)
    if params["receivers"]:
        fanned = one_way(system, params, receivers=params["receivers"])
        figures |= {f"fan_{name}": value for name, value in fanned.items()}
    return figures


def measure_touched(system: System, params: dict[str, Any]) -> Figures:
    """Round trips of which only both ends are written and looked at, µs."""
    _check_memory(params)
    due = 2 * (params["warmup"] + params["calls"])
    done = _round_trips(system, params, "touched", past_node=due)
    return {"touched_us_p50": done["latency_us_p50"], "touched_us_p99": done["latency_us_p99"]}


def _check_memory(params: dict[str, Any]) -> None:
    if params["payload_bytes"] == LARGEST_MIB * MIB:
        free = psutil.virtual_memory().available
        if free < LARGEST_NEEDS_BYTES:
            raise Skipped(
                f"{free / 2**30:.1f} GiB of memory are free, {LARGEST_NEEDS_BYTES >> 30} needed"
            )


def one_way(system: System, params: dict[str, Any], *, receivers: int) -> Figures:
    """GB/s and CPU seconds a GB, from the first fill to the last sum.

    A GB is 10**9 bytes that were summed: of several receivers each sums all that was filled.
    """
    with Stage(timeout_s=120) as stage:
        url, _server = system.listen(stage)
        told = {**params, "url": url, "receivers": receivers}
        entry = system.entry("bulk_sink")
        sinks = [stage.participant(entry, {**told, "process": i}) for i in range(receivers)]
        stage.hear_all(sinks, "listening")
        producer = stage.participant(system.entry("bulk_source"), told)
        stage.hear_all([producer], "ready")
        stage.hear_all(sinks, "warm")
        cpu_s = stage.cpu_s()
        producer.say("go")
        (sent,) = stage.hear_all([producer], "sent")
        done = stage.hear_all(sinks, "done")
        cpu_s = stage.cpu_s() - cpu_s
    moved_gb = receivers * params["count"] * params["payload_bytes"] / 1e9
    elapsed_s = (max(each["end_ns"] for each in done) - sent["start_ns"]) / 1e9
    return {"gb_per_s": moved_gb / elapsed_s, "cpu_s_per_gb": cpu_s / moved_gb}


def asked(system: System, params: dict[str, Any]) -> Figures:
    """Round trips of tensors, µs; both ways filled and summed."""
    done = _round_trips(system, params, "tensor")
    return {"rtt_us_p50": done["latency_us_p50"], "rtt_us_p99": done["latency_us_p99"]}


def _round_trips(
    system: System, params: dict[str, Any], what: str, *, past_node: int = 0
) -> dict[str, Any]:
    """Have one participant ask another; return what the asker says.

    Args:
        what: begins the names of their entries.
        past_node: as many messages a node, where there is one, must say went past it; 0: any.
    """
    cpus = ends(params)
    with Stage(timeout_s=120) as stage:
        url, server = system.listen(stage)
        told = {**params, "url": url, "receivers": 1}
        answerer = stage.participant(system.entry(f"{what}_answerer"), told, cpu=cpus.answerer)
        stage.hear_all([answerer], "listening")
        asker = stage.participant(system.entry(f"{what}_asker"), told, cpu=cpus.asker)
        stage.hear_all([asker], "ready")
        asker.say("go")
        (done,) = stage.hear_all([asker], "done")
        if past_node and server is not None:
            check_past_node(url, past_node)
    return done
