"""fanout100: one producer, 100 subscriptions, every delivery checked."""

from __future__ import annotations

from typing import Any

from benches.harness import Case, Figures, Stage
from benches.systems import GRPC, NATS, REDIS, SIRA, ZMQ, System, case

SUMMARY = "256 B to 100 subscriptions over 10 connections in 2 processes"
PROCESSES = 2
SUBSCRIPTIONS = 100
CONNECTIONS = 10


def groups(quick: bool) -> list[list[Case]]:
    """One group: every system. zmq and Redis need a connection for each subscription."""
    params = {
        "message_bytes": 256,
        "warmup": 100,
        "send_s": 0.7 if quick else 3.0,
        "processes": PROCESSES,
        "subscriptions": SUBSCRIPTIONS,
        "connections": CONNECTIONS,
    }
    each = {**params, "connections": SUBSCRIPTIONS}
    return [
        [
            case("fanout100", s, each if s in (ZMQ, REDIS) else params, measure)
            for s in (GRPC, SIRA, ZMQ, NATS, REDIS)
        ]
    ]


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Deliveries a second, from the first send to the arrival of the last."""
    with Stage(timeout_s=90) as stage:
        url, _server = system.listen(stage)
        producer = stage.participant(system.entry("fan_source"), {**params, "url": url})
        stage.hear_all([producer], "listening")
        share = {
            **params,
            "url": url,
            "subscriptions": params["subscriptions"] // PROCESSES,
            "connections": params["connections"] // PROCESSES,
        }
        entry = system.entry("fan_sink")
        sinks = [stage.participant(entry, {**share, "process": i}) for i in range(PROCESSES)]
        stage.hear_all(sinks, "subscribed")
        producer.say("subscribed")
        stage.hear_all([producer], "ready")
        stage.hear_all(sinks, "warm")
        cpu_s = stage.cpu_s()
        producer.say("go")
        (sent,) = stage.hear_all([producer], "sent")
        done = stage.hear_all(sinks, "done")
        cpu_s = stage.cpu_s() - cpu_s
    deliveries = sum(d["count"] for d in done)
    assert deliveries == sent["count"] * params["subscriptions"], (sent, done)  # the sinks checked
    elapsed_s = (max(d["end_ns"] for d in done) - sent["start_ns"]) / 1e9
    return {
        "deliveries_per_s": deliveries / elapsed_s,
        "cpu_us_per_delivery": cpu_s * 1e6 / deliveries,
        "lost": 0.0,
    }
