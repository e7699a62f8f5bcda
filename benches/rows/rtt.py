"""rtt256: request and reply of 256 B, one at a time, on an otherwise idle system."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benches import placement
from benches.harness import Case, Figures, Stage
from benches.systems import GRPC, NATS, REDIS, SIRA, ZMQ, System, case

SUMMARY = "request/reply 256 B, one at a time"


def groups(quick: bool) -> list[list[Case]]:
    """One group: every system."""
    params = {"message_bytes": 256, "warmup": 500, "calls": 1_000 if quick else 10_000}
    return [[case("rtt256", s, params, measure) for s in (GRPC, SIRA, ZMQ, NATS, REDIS)]]


def measure(
    system: System,
    params: dict[str, Any],
    *,
    seen: Callable[[Stage, str], Figures] | None = None,
    after: Callable[[str], None] | None = None,
) -> Figures:
    """Latencies seen by the asking process, and CPU of all processes together.

    params: message_bytes, warmup, calls; placement, if the two ends are to be on certain CPUs.
    `seen` looks at the address when both ends are there, before anything is timed; `after` once
    all is done, with both ends still there.
    """
    ends = placement.ends(params)
    with Stage(timeout_s=60) as stage:
        url, _server = system.listen(stage)
        told = {**params, "url": url}
        answerer = stage.participant(system.entry("echo_server"), told, cpu=ends.answerer)
        stage.hear_all([answerer], "listening")
        asker = stage.participant(system.entry("asker"), told, cpu=ends.asker)
        stage.hear_all([asker], "ready")
        looked = seen(stage, url) if seen else {}
        cpu_s = stage.cpu_s()
        asker.say("go")
        (done,) = stage.hear_all([asker], "done")
        cpu_s = stage.cpu_s() - cpu_s
        if after is not None:
            after(url)
    names = ("latency_us_p50", "latency_us_p99", "latency_us_max")
    return {
        **{name: done[name] for name in names},
        "cpu_us_per_message": cpu_s * 1e6 / (2 * params["calls"]),
        **looked,
    }
