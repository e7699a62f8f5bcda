"""mixed: 1 GiB tensors alone, and beside 1 KiB requests on the same connection.

The requests leave on a schedule and a latency counts from the instant a request was due. Both ends
are one process with one connection each, so large and small share everything.
"""

from __future__ import annotations

from typing import Any

from benches.harness import Case, Figures, Stage
from benches.systems import GRPC, SIRA, ZMQ, System, case

SUMMARY = "1 GiB tensors beside 1 KiB requests on one connection"


def groups(quick: bool) -> list[list[Case]]:
    """One group. zmq's single connection shows what no interleaving means."""
    params = {
        "payload_bytes": (256 if quick else 1024) << 20,
        "buffers": 1,
        "warmup": 1,
        "count": 2 if quick else 3,
        "message_bytes": 1024,
        "requests_per_s": 200,
        "idle_s": 2.0 if quick else 10.0,
    }
    return [[case("mixed", s, params, measure) for s in (GRPC, SIRA, ZMQ)]]


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Speed alone, latency idle, then both at once."""
    with Stage(timeout_s=180) as stage:
        url, _server = system.listen(stage)
        sink = stage.participant(system.entry("mixed_sink"), {**params, "url": url})
        stage.hear_all([sink], "listening")
        producer = stage.participant(system.entry("mixed_source"), {**params, "url": url})
        stage.hear_all([producer], "ready")
        producer.say("go")
        (done,) = stage.hear_all([producer], "done")
    moved_gb = params["count"] * params["payload_bytes"] / 1e9
    alone, beside = moved_gb / done["alone_s"], moved_gb / done["beside_s"]
    return {
        "alone_gb_per_s": alone,
        "beside_gb_per_s": beside,
        "speed_ratio": beside / alone,
        "idle_us_p50": done["idle"]["latency_us_p50"],
        "idle_us_p99": done["idle"]["latency_us_p99"],
        "beside_us_p50": done["beside"]["latency_us_p50"],
        "beside_us_p99": done["beside"]["latency_us_p99"],
        "p99_ratio": done["beside"]["latency_us_p99"] / done["idle"]["latency_us_p99"],
        "beside_requests": float(done["beside_requests"]),
    }
