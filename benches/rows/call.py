"""call: what finding by capability adds to a request, once it was found.

The same agent, body and handler are asked by topic (`request`) and by words (`call`), in turns of
some hundred in one process; the ratio is taken within a round.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from benches.harness import BenchError, Case, Figures, Stage
from benches.local_systems import lane_start
from benches.systems import SIRA, System, case, socket_of

SUMMARY = "call by capability with a cached resolution beside request"
_SIDE = replace(SIRA, module="benches.registry_side", roles={"asker": "caller"})
_SOCKET = replace(_SIDE, address=socket_of)
LANES = (
    replace(_SIDE, name="sira-grpc", start=lane_start("grpc", shm="off")),
    replace(_SOCKET, name="sira-socket", start=lane_start("socket", shm="off")),
    replace(_SOCKET, name="sira-direct", start=lane_start("shm", direct="on")),
)
SYSTEMS = tuple(
    replace(lane, name=f"{lane.name}{suffix}", label=f"{lane.name}{suffix}", roles={"asker": role})
    for suffix, role in (("", "caller"), ("-sync", "sync_caller"))
    for lane in LANES
)


def groups(quick: bool) -> list[list[Case]]:
    """One group: each lane, with `await` and without."""
    params = {
        "message_bytes": 256,
        "topic": "agents.bench-echo.echo",
        "warmup": 50 if quick else 500,
        "calls": 50 if quick else 500,
        "rounds": 2 if quick else 10,
    }
    return [[case("call", system, params, measure) for system in SYSTEMS]]


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Medians of both, µs, and their ratio; CPU of the calling process beside it."""
    with Stage(timeout_s=120) as stage:
        url, _node = system.listen(stage)
        shared = {**params, "url": url}
        agent = stage.participant("benches.registry_side:echo_agent", shared)
        stage.hear_all([agent], "listening")
        asker = stage.participant(system.entry("asker"), shared)
        stage.hear_all([asker], "ready")
        asker.say("go")
        (done,) = stage.hear_all([asker], "done")
        if done["agent"] != "bench-echo" or done["lane"] != stage.shared["lane"]:
            raise BenchError(f"answered by {done['agent']} over {done['lane']}")
    names = ("request_us_p50", "call_us_p50", "ratio", "request_caller_cpu_us",
             "call_caller_cpu_us", "caller_cpu_ratio")  # fmt: skip
    return {name: done[name] for name in names}
