"""What rows share that measure one way to a node beside another.

At 256 B the figures of `rtt256` and `rate256`, at 1 and 16 MiB those of `sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from benches.harness import Case, Figures, Stage
from benches.rows import rate, rtt, sweep
from benches.systems import System, case

MIB = 1 << 20


def groups(
    row: str,
    systems: Sequence[System],
    measure_small: Callable[[System, dict[str, Any]], Figures],
    *,
    quick: bool,
    **small: Any,
) -> list[list[Case]]:
    """One group a size, each with every system; `small` are more parameters at 256 B."""
    small |= {
        "message_bytes": 256,
        "warmup": 1_000,
        "calls": 1_000 if quick else 5_000,
        "send_s": 0.7 if quick else 3.0,
    }
    made = [[case(row, s, small, measure_small) for s in systems]]
    for size_mib in (1, 16):
        params = {
            "payload_bytes": size_mib * MIB,
            "count": (128 if quick else 1024) // size_mib,
            "warmup": 32 if size_mib == 1 else 4,
            "buffers": 4,
        }
        made.append([case(row, s, params, sweep.measure) for s in systems])
    return made


def both_ways(
    system: System, params: dict[str, Any], looked: Callable[[Stage, str], Figures]
) -> Figures:
    """Request and reply, then one way; each on a server of its own. `looked` sees the first."""
    asked = rtt.measure(system, params, seen=looked)
    sent = rate.measure(system, params)
    renamed = {"rtt_cpu_us_per_message": asked.pop("cpu_us_per_message")}
    return {**asked, **renamed, **sent}
