"""A publisher's outbox over an arena, and whoever maps its segments: memory by reference without a
connection."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from sira import _native
from sira.kernel.errors import QueueFull
from sira.v1 import bus_pb2

from .client_harness import LATER_NS, SUBSCRIPTION, Box, down, items_of

KIB = 1 << 10


class Lending:
    """An outbox whose placer takes from one arena; `asked` is what it was called with."""

    def __init__(self, arena_bytes: int = 64 << 20, *, lends: bool = True, **options: Any) -> None:
        self.arena = _native.ShmArena(arena_bytes)
        self.asked: list[tuple[str, int]] = []
        self.outbox = _native.Outbox(source="me", placer=self.place, **options)
        self.outbox.lends = lends

    def place(self, topic: str, size: int) -> _native.ShmChunk | None:
        self.asked.append((topic, size))
        try:
            return self.arena.take(size)
        except QueueFull:
            return None

    @property
    def held_bytes(self) -> int:
        """Of messages in the arena."""
        return self.arena.asked_bytes

    def read(self, lent: bus_pb2.Lent) -> bytes:
        """What lies there now, as anybody sees it who was given the segment's descriptor."""
        (fd,) = [fd for segment, fd, _ in self.arena.segments() if segment == lent.segment]
        return os.pread(fd, lent.bytes, lent.offset)


class Reader:
    """A subscriber: an inbox that maps segments as they are shown."""

    def __init__(self) -> None:
        self.maps = _native.ShmMaps()
        self.inbox, self.box = _native.Inbox(), Box()
        self.inbox.maps = self.maps
        self.inbox.attach(SUBSCRIPTION, self.box)
        self._known: set[int] = set()

    def show(self, arena: _native.ShmArena) -> None:
        for segment, fd, size in arena.segments():
            if segment not in self._known:
                self._known.add(segment)
                self.maps.map(segment, os.dup(fd), size)

    def take(self, arena: _native.ShmArena, encoded: bytes) -> None:
        """Take a publisher's frame as the node would pass it on."""
        self.show(arena)
        self.inbox.feed(down(encoded))

    def pop(self) -> _native.Message:
        got = self.box.pop()
        assert got is not None
        return got


def ramp(count: int, first: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return (np.arange(count) + first).astype(np.uint8)


def next_items(outbox: _native.Outbox) -> list[bus_pb2.Item]:
    """Items of the next frame alone."""
    return items_of([outbox.take(LATER_NS) or b""])


def kinds(items: list[bus_pb2.Item]) -> list[str]:
    """Of each item: head, message, abort, or how its chunk comes: lent, data."""

    def kind(item: bus_pb2.Item) -> str:
        if not item.HasField("chunk"):
            return str(item.WhichOneof("kind"))
        assert item.chunk.HasField("lent") != bool(item.chunk.data)
        return "lent" if item.chunk.HasField("lent") else "data"

    return [kind(item) for item in items]
