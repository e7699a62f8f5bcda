"""rate256: 256 B one way, one producer, one consumer, every message checked."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from benches.harness import Case, Figures, Stage
from benches.systems import GRPC, NATS, REDIS, SIRA, ZMQ, System, case

SUMMARY = "one-way 256 B, one producer, one consumer, none lost"


def groups(quick: bool) -> list[list[Case]]:
    """One group: every system, and Sira once more with `publish_many`."""
    params = {"message_bytes": 256, "warmup": 2_000, "send_s": 0.7 if quick else 3.0}
    cases = [case("rate256", s, params, measure) for s in (GRPC, SIRA, ZMQ, NATS, REDIS)]
    many = partial(measure, source="source_many")
    cases.insert(2, case("rate256", SIRA, {**params, "many": 64}, many, name="sira-many"))
    return [cases]


def measure(
    system: System,
    params: dict[str, Any],
    *,
    source: str = "source",
    seen: Callable[[Stage, str], Figures] | None = None,
    after: Callable[[str, int], None] | None = None,
) -> Figures:
    """Messages a second, from the first send to the arrival of the last.

    `seen` looks at the address before anybody else does, `after` once so many have come. CPU of the
    server alone is told where there is one between the two ends.
    """
    with Stage(timeout_s=60) as stage:
        url, server = system.listen(stage)
        looked = seen(stage, url) if seen else {}
        sink = stage.participant(system.entry("sink"), {**params, "url": url})
        stage.hear_all([sink], "listening")
        producer = stage.participant(system.entry(source), {**params, "url": url})
        stage.hear_all([producer], "ready")
        stage.hear_all([sink], "warm")
        servers = [server] if server else []
        cpu_s, server_cpu_s = stage.cpu_s(), stage.cpu_s(servers)
        producer.say("go")
        (sent,) = stage.hear_all([producer], "sent")
        (done,) = stage.hear_all([sink], "done")
        cpu_s, server_cpu_s = stage.cpu_s() - cpu_s, stage.cpu_s(servers) - server_cpu_s
        if after is not None:
            after(url, done["count"])
    assert sent["count"] == done["count"], (sent, done)  # the sink checked it: our bug otherwise
    elapsed_s = (done["end_ns"] - sent["start_ns"]) / 1e9
    return {
        "messages_per_s": done["count"] / elapsed_s,
        "cpu_us_per_message": cpu_s * 1e6 / done["count"],
        **({"server_cpu_us_per_message": server_cpu_s * 1e6 / done["count"]} if server else {}),
        **looked,
        "lost": 0.0,
    }
