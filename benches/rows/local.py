"""local: two clients of one host by the node's Unix socket, beside the same by gRPC.

At 256 B the figures of `rtt256` and `rate256`, at 1 and 16 MiB those of `sweep`.
"""

from __future__ import annotations

from typing import Any

from benches.harness import BenchError, Case, Figures, Stage
from benches.rows import beside
from benches.systems import SIRA, SIRA_SOCKET, System

SUMMARY = "the node's Unix socket beside gRPC: request/reply and one way at 256 B, 1 and 16 MiB"
SYSTEMS = (SIRA, SIRA_SOCKET)


def groups(quick: bool) -> list[list[Case]]:
    """One group a size, each by both ways."""
    return beside.groups("local", SYSTEMS, measure_small, quick=quick)


def measure_small(system: System, params: dict[str, Any]) -> Figures:
    """Request and reply, then one way; each on a server of its own."""

    def looked(_stage: Stage, url: str) -> Figures:
        if url.startswith("unix:") != (system is SIRA_SOCKET):
            raise BenchError(f"{system.name} at {url}")
        return {}

    return beside.both_ways(system, params, looked)
