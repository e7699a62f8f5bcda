"""local: two clients of one host by the node's Unix socket, beside the same by gRPC.

At 256 B the figures of `rtt256` and `rate256`, at 1 and 16 MiB those of `sweep`.
"""

from __future__ import annotations

from typing import Any

from benches.harness import BenchError, Case, Figures, Stage
from benches.rows import rate, rtt, sweep
from benches.systems import SIRA, SIRA_SOCKET, System, case

SUMMARY = "the node's Unix socket beside gRPC: request/reply and one way at 256 B, 1 and 16 MiB"
MIB = 1 << 20
SYSTEMS = (SIRA, SIRA_SOCKET)


def groups(quick: bool) -> list[list[Case]]:
    """One group a size, each by both ways."""
    small = {
        "message_bytes": 256,
        "warmup": 1_000,
        "calls": 1_000 if quick else 5_000,
        "send_s": 0.7 if quick else 3.0,
    }
    made = [[case("local", s, small, measure_small) for s in SYSTEMS]]
    for size_mib in (1, 16):
        params = {
            "payload_bytes": size_mib * MIB,
            "count": (128 if quick else 1024) // size_mib,
            "warmup": 32 if size_mib == 1 else 4,
            "buffers": 4,
        }
        made.append([case("local", s, params, sweep.measure) for s in SYSTEMS])
    return made


def measure_small(system: System, params: dict[str, Any]) -> Figures:
    """Request and reply, then one way; each on a server of its own."""

    def looked(_stage: Stage, url: str) -> Figures:
        if url.startswith("unix:") != (system is SIRA_SOCKET):
            raise BenchError(f"{system.name} at {url}")
        return {}

    asked = rtt.measure(system, params, seen=looked)
    sent = rate.measure(system, params)
    renamed = {"rtt_cpu_us_per_message": asked.pop("cpu_us_per_message")}
    return {**asked, **renamed, **sent}
