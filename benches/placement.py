"""On which CPUs the two ends of a round trip run, where a case says so.

Left alone, a scheduler puts two processes that wake each other on one CPU or on two, as it happens,
and that decides what a wake-up costs: on one CPU a switch, on two the rousing of a halted CPU.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from benches.harness import Skipped

APART = "apart"
"""Each end on a CPU of its own, which is idle while that end sleeps."""
TOGETHER = "together"
"""Both on one CPU, so that neither can spin while the other works."""
PLACEMENTS = (APART, TOGETHER)


@dataclass(frozen=True)
class Ends:
    """A CPU for each end, of all its threads; None: whichever the scheduler likes."""

    answerer: int | None = None
    asker: int | None = None


def ends(params: dict[str, Any]) -> Ends:
    """Choose CPUs for the `placement` of a case, of those that this process may run on.

    Raises:
        Skipped: there are too few, or this system lets nobody choose.
    """
    placement = params.get("placement")
    if placement is None:
        return Ends()
    assert placement in PLACEMENTS, placement
    if not hasattr(os, "sched_setaffinity"):
        raise Skipped("this system lets no process choose its CPU")
    cpus = sorted(os.sched_getaffinity(0))
    if placement == TOGETHER:
        return Ends(cpus[0], cpus[0])
    if len(cpus) < 2:
        raise Skipped("two CPUs are needed, and this process may use one")
    return Ends(cpus[0], cpus[1])
