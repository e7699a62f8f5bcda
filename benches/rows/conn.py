"""conn1000: 1,000 connections of 20 processes echo small messages through one server process.

`server_kib_per_connection` is read when each connection has its subscription (raw grpcio: its
stream) and has sent nothing; `..._loaded` after the load, when it also publishes.

Through a server of its own (raw grpcio) a message comes back on its stream. Through a node or
broker each connection subscribes to a topic of its own and publishes to it: one message in and one
out at the server for each round trip, as with raw grpcio.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from benches.harness import Case, Figures, Participant, Process, Stage, connection_count, rss_bytes
from benches.payload import now_ns
from benches.stats import latency_figures
from benches.systems import GRPC, NATS, SIRA, System, case

SUMMARY = "1,000 connections echoing: saturation, latency at a third of it, memory, idle CPU"
PROCESSES = 20
LEAD_S = 0.3
"""From the order to the start of a window, so that every process begins on time."""


def groups(quick: bool) -> list[list[Case]]:
    """One group: raw grpcio, Sira, NATS."""
    params = {
        "message_bytes": 256,
        "processes": PROCESSES,
        "connections": 200 if quick else 1_000,
        "flood_s": 2.0 if quick else 6.0,
        "pace_s": 3.0 if quick else 10.0,
        "idle_s": 2.0 if quick else 10.0,
        "settle_s": 1.0,
    }
    return [[case("conn1000", s, params, measure) for s in (GRPC, SIRA, NATS)]]


def _run(
    stage: Stage, swarm: list[Participant], window_s: float, interval_ns: int, seed: int
) -> np.ndarray:
    """Order one window of load from all processes; every latency, ns."""
    start_ns = now_ns() + int(LEAD_S * 1e9)
    order = {"start_ns": start_ns, "end_ns": start_ns + int(window_s * 1e9)}
    for number, member in enumerate(swarm):
        member.say("run", **order, interval_ns=interval_ns, seed=seed + number)
    answers = stage.hear_all(swarm, "ran")
    return np.concatenate([np.asarray(a["samples_us"], np.float64) for a in answers]) * 1e3


def _go(stage: Stage, swarm: list[Participant]) -> None:
    """Let those who have subscribed exchange their first message."""
    for member in swarm:
        member.say("go")
    stage.hear_all(swarm, "ready")


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Start the server, read its memory, connect, then flood, pace and rest."""
    count = params["connections"]
    with Stage(timeout_s=120) as stage:
        url, started = system.listen(stage)
        if started is None:
            echo = stage.participant(system.entry("echo_server"), {**params, "url": url})
            stage.hear_all([echo], "listening")
            server: Process = echo
        else:
            server = started
        port = int(url.rpartition(":")[2])
        share = {**params, "url": url, "connections": count // PROCESSES}
        entry = system.entry("swarm")
        # One connection first, which stays: what a server allocates once is not counted for each.
        first = stage.participant(entry, {**share, "connections": 1, "process": -1})
        stage.hear_all([first], "subscribed")
        _go(stage, [first])
        rss_before_bytes = rss_bytes(server)
        swarm = [stage.participant(entry, {**share, "process": i}) for i in range(PROCESSES)]
        stage.hear_all(swarm, "subscribed")
        rss_bytes_each = (rss_bytes(server) - rss_before_bytes) / count
        _go(stage, swarm)
        connected = connection_count(server, port) - 1
        cpu_s = stage.cpu_s([server])
        flood_ns = _run(stage, swarm, params["flood_s"], 0, seed=1)
        server_cpu_s = stage.cpu_s([server]) - cpu_s
        rate = flood_ns.size / params["flood_s"]
        pace_ns = _run(stage, swarm, params["pace_s"], int(count / (rate / 3) * 1e9), seed=100)
        rss_loaded_each = (rss_bytes(server) - rss_before_bytes) / count
        time.sleep(params["settle_s"])
        cpu_s = stage.cpu_s([server])
        time.sleep(params["idle_s"])  # the idle period itself is what is measured
        idle_cpu_s = stage.cpu_s([server]) - cpu_s
    flood, pace = latency_figures(flood_ns), latency_figures(pace_ns)
    return {
        "messages_per_s": rate,
        "saturated_us_p50": flood["latency_us_p50"],
        "saturated_us_p99": flood["latency_us_p99"],
        "third_us_p50": pace["latency_us_p50"],
        "third_us_p99": pace["latency_us_p99"],
        "server_cpu_us_per_message": server_cpu_s * 1e6 / flood_ns.size,
        "server_kib_per_connection": rss_bytes_each / 1024,
        "server_kib_per_connection_loaded": rss_loaded_each / 1024,
        "idle_cpu_percent": 100 * idle_cpu_s / params["idle_s"],
        "connections_seen": float(connected),
    }
