"""A figure of a case, the goal that is set for it, and what came of that.

A ratio or a difference is taken within each repeat, between figures measured minutes apart at most,
and the median of those is reported: it holds still while the machine's own speed drifts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from benches.harness import Result

MIB = 1 << 20


@dataclass(frozen=True)
class Figure:
    """One figure of one case; `size_mib` picks a case of a sweep, `placement` one of two."""

    row: str
    system: str
    name: str
    size_mib: int | None = None
    placement: str | None = None
    """Where the case has its two ends; None: a case that leaves them alone."""

    def samples(self, results: Iterable[Result]) -> list[float]:
        """Its repeats; empty when it was not measured."""
        for result in results:
            if (result.row, result.system) != (self.row, self.system):
                continue
            if result.params.get("placement") != self.placement:
                continue
            if self.size_mib is None and self.name in result.samples:
                return result.samples[self.name]
            if self.size_mib is not None and result.params["payload_bytes"] == self.size_mib * MIB:
                return result.samples.get(self.name, [])
        return []


@dataclass(frozen=True)
class Goal:
    """`ours`, or what it is of `theirs`, is to be at least, or at most, `limit`."""

    title: str
    ours: Figure
    theirs: Figure | None
    limit: float
    at_least: bool = True
    difference: bool = False
    """`theirs` is taken away from `ours`, which is divided by it otherwise."""


@dataclass(frozen=True)
class Verdict:
    """A goal beside what was measured; `met` is None when something it needs was not."""

    goal: Goal
    value: float
    met: bool | None
