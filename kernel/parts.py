"""Parts: what a node is composed of beside the bus, without the kernel knowing what they are.

A part brings methods and topic classes, is started before the node listens and stopped when it has
drained. `sira.services.node` says which parts a node has; a `Node` without any is a bus alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sira.kernel.bus import Bus
from sira.kernel.events import Field
from sira.kernel.identity import Principal
from sira.kernel.logs import Logs
from sira.kernel.methods import Method, TopicClass
from sira.kernel.settings import Settings
from sira.v1 import bus_pb2


def boottime_ns() -> int:
    """Return CLOCK_BOOTTIME, ns: it never jumps, and goes on while the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Say(Protocol):
    """Says a fact of `sira.>` in all worlds."""

    def __call__(self, topic: str, /, **fields: Field) -> None:
        """Say it."""
        ...


class TopicKeeper(Protocol):
    """Keeps what is declared over a restart. Owned topics are never given to it."""

    async def keep(self, tenant: str, request: bus_pb2.CreateTopicRequest, by: Principal) -> None:
        """Return when the declaration is kept. Raises SiraError: it is not."""
        ...

    async def forget(self, tenant: str, name: str) -> None:
        """Return when it is kept no more; one that was not kept is no error."""
        ...


@dataclass(frozen=True, slots=True)
class Host:
    """What a part may use of its node.

    Attributes:
        settings, logs: of the node.
        folder: the data folder, which nobody else writes; None: nothing is kept.
        bus_of: the bus of a tenant, made when it has none yet; may raise QuotaExceeded.
        bus_if: the bus of a tenant; None: it has none yet.
        say: says a fact in all worlds.
        not_ready: says from now on that the node serves no more as it should.
        keep_topics: names who keeps declarations.
        count: names a number of the part among those of the process, and who reads it.
        limp: says of something by name whether it fails now, without which the node still serves.
        clock_ns: what leases end by: CLOCK_BOOTTIME, or a clock that a test moves.
    """

    settings: Settings
    logs: Logs
    folder: Path | None
    bus_of: Callable[[str], Bus]
    bus_if: Callable[[str], Bus | None]
    say: Say
    not_ready: Callable[[], None]
    keep_topics: Callable[[TopicKeeper], None]
    limp: Callable[[str, bool], None]
    count: Callable[[str, Callable[[], float]], None]
    clock_ns: Callable[[], int] = boottime_ns


class Part(Protocol):
    """A part of a node. Belongs to the node's loop."""

    def methods(self) -> Iterable[Method]:
        """Return its methods, for the table; asked once, before `start`."""
        ...

    def topic_classes(self) -> Iterable[TopicClass]:
        """Return the patterns of topics that it gives a meaning."""
        ...

    async def start(self, host: Host) -> None:
        """Begin; the node listens when all parts have begun.

        Raises:
            SiraError: why the node cannot start.
        """
        ...

    def tick(self) -> None:
        """Look at the clock: it was moved by hand."""
        ...

    async def stop(self) -> None:
        """End: no call is under way any more, and none will come."""
        ...


async def start_all(parts: Iterable[Part], host: Host) -> list[Part]:
    """Start parts one after the other, and return them.

    Raises:
        SiraError: one cannot; those before it are stopped again.
    """
    started: list[Part] = []
    try:
        for part in parts:
            await part.start(host)
            started.append(part)
    except BaseException:
        await stop_all(started)
        raise
    return started


async def stop_all(started: list[Part]) -> None:
    """Stop parts, the last one first."""
    while started:
        await started.pop().stop()
