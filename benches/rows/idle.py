"""idle5000: request and reply on a schedule, alone and beside 5,000 connections that say nothing.

An idle connection is a client of the SDK with a subscription on a topic of its own. Alone is
measured before they come and after they have gone, so that a drift of the machine's speed weighs
on both sides.
"""

from __future__ import annotations

import resource
import time
from typing import Any

from benches.harness import (
    BenchError,
    Case,
    Figures,
    Participant,
    Stage,
    connection_count,
    rss_bytes,
)
from benches.stats import alone_and_beside
from benches.systems import SIRA, System, case

SUMMARY = "request/reply on one connection beside 5,000 idle ones"
PROCESSES = 10
FILES_MORE = 1_000
"""Open files of the node beside the connections."""
GONE_S = 60.0


def groups(quick: bool) -> list[list[Case]]:
    """One group of one case: the ratio is taken within it."""
    params = {
        "message_bytes": 256,
        "connections": 500 if quick else 5_000,
        "processes": PROCESSES,
        "requests_per_s": 250,
        "warm_s": 1.0,
        "window_s": 2.0 if quick else 10.0,
        "idle_s": 1.0 if quick else 5.0,
    }
    return [[case("idle5000", SIRA, params, measure)]]


def allow_files(count: int) -> None:
    """Let this process, and all it starts, open `count` files.

    Raises:
        BenchError: the hard limit of this shell is lower.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < count:
        raise BenchError(f"{count} open files are needed, {hard} allowed: raise `ulimit -Hn`")
    if soft != resource.RLIM_INFINITY and soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


def _counted(stage: Stage, watcher: Participant) -> float:
    """Clients with a stream, as the node's Stats says."""
    watcher.say("count")
    (counted,) = stage.hear_all([watcher], "counted")
    return float(counted["clients"])


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Ask alone, connect the idle ones, ask beside them, let them go, ask alone again."""
    count, window_s = params["connections"], params["window_s"]
    allow_files(count + FILES_MORE)
    with Stage(timeout_s=240) as stage:
        url, node = system.listen(stage)
        assert node is not None, "sira has a node"
        port, shared = int(url.rpartition(":")[2]), {**params, "url": url}
        echo = stage.participant(system.entry("echo_server"), shared)
        stage.hear_all([echo], "listening")
        asker = stage.participant("benches.door_side:asker_on_schedule", shared)
        watcher = stage.participant("benches.door_side:watcher", shared)
        stage.hear_all([asker, watcher], "ready")

        def ask(seconds: float) -> list[int]:
            asker.say("ask", seconds=seconds)
            (asked,) = stage.hear_all([asker], "asked")
            samples_us: list[int] = asked["samples_us"]
            return samples_us

        alone_us = ask(window_s)
        clients, rss_before = _counted(stage, watcher), rss_bytes(node)
        started_s = time.monotonic()
        share = {**shared, "connections": count // PROCESSES}
        crowd = [
            stage.participant(system.entry("swarm"), {**share, "process": i})
            for i in range(PROCESSES)
        ]
        stage.hear_all(crowd, "subscribed")  # and no `go`: they never send
        connect_s = time.monotonic() - started_s
        rss_each = (rss_bytes(node) - rss_before) / count
        _check(count, _counted(stage, watcher) - clients, connection_count(node, port))
        cpu_s = stage.cpu_s([node])
        time.sleep(params["idle_s"])  # the idle period itself is what is measured
        idle_cpu_s = stage.cpu_s([node]) - cpu_s
        beside_us = ask(2 * window_s)
        seen = _counted(stage, watcher) - clients
        _check(count, seen, connection_count(node, port))
        for member in crowd:
            member.stop()
        deadline_s = time.monotonic() + GONE_S
        while _counted(stage, watcher) > clients:
            if time.monotonic() > deadline_s:
                raise BenchError("idle connections were closed and are still counted")
            time.sleep(0.2)  # polled under the deadline above
        alone_us += ask(window_s)
    return {
        **alone_and_beside(alone_us, beside_us),
        "idle_clients_seen": seen,
        "idle_cpu_percent": 100 * idle_cpu_s / params["idle_s"],
        "server_kib_per_connection": rss_each / 1024,
        "connect_s": connect_s,
    }


def _check(count: int, clients: float, sockets: int) -> None:
    """Compare what should be connected with what the node and the kernel say.

    Raises:
        BenchError: an idle connection is missing.
    """
    if clients != count or sockets < count:
        raise BenchError(f"{count} idle connections: the node counts {clients}, sockets {sockets}")
