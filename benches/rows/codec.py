"""codec: the native codec alone, in one process: not the bus, not the network."""

from __future__ import annotations

from typing import Any

from benches.harness import Case, Figures, Stage
from benches.systems import SIRA, System, case

SUMMARY = "native codec: decode by size, encode to a buffer beside memcpy"


def groups(quick: bool) -> list[list[Case]]:
    """One group a payload size."""
    sizes = (256, 1 << 16, 1 << 20) if quick else (256, 1 << 12, 1 << 16, 1 << 20, 1 << 24, 1 << 26)
    return [
        [case("codec", SIRA, {"payload_bytes": size, "calls": _calls(size, quick)}, measure)]
        for size in sizes
    ]


def _calls(payload_bytes: int, quick: bool) -> int:
    """Fewer calls of large payloads: about 2 GiB written in all."""
    return int(min(2_000 if quick else 20_000, max(16, (2 << 30) // payload_bytes)))


def measure(system: System, params: dict[str, Any]) -> Figures:
    """Decode in µs; encode as a share of memcpy's speed over the same bytes."""
    with Stage(timeout_s=120) as stage:
        worker = stage.participant(system.entry("codec"), params)
        (done,) = stage.hear_all([worker], "done")
    return {str(name): float(value) for name, value in done["figures"].items()}
