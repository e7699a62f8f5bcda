"""A publisher's outbox whose messages may go past the node, and the node and readers around it."""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
from typing import Any

from sira import _native
from sira.v1 import bus_pb2

from .arena_harness import Lending
from .client_harness import items_of, taken
from .link_harness import ends

TOPIC = "lab.x"
WORD = 5
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL | 0x10  # F_SEAL_FUTURE_WRITE


class Page:
    """The generation page, as the node has it and as a client maps it."""

    def __init__(self, words: int = 16) -> None:
        fd = os.memfd_create("page", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, words * 8)
        self._memory = mmap.mmap(fd, words * 8)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
        self.shown = _native.ShmPage(fd, words)

    def move(self, word: int = WORD) -> None:
        """What the node does when who may read has changed."""
        struct.pack_into("<Q", self._memory, word * 8, self.shown.word(word) + 1)


class Link:
    """Both ends of one link in this process, and the node's mapping; cells are given out once."""

    def __init__(self, *, slots: int = 64, holds: int = 32, cells: int = 256) -> None:
        self.node, self.writer, self.reader = ends(slots=slots, holds=holds, cells=cells)
        self.next_cell = 0
        self.known: set[int] = set()

    def cell(self) -> int:
        self.next_cell += 1
        return self.next_cell - 1

    def introduce(self, arena: _native.ShmArena) -> None:
        for segment, fd, size in arena.segments():
            if segment not in self.known:
                self.reader.map(segment, os.dup(fd), size)
                self.known.add(segment)

    def take(self, cell: int) -> _native.Message | None:
        return self.reader.take(cell)

    def texts(self, cell: int) -> list[str]:
        found = []
        while (got := self.reader.take(cell)) is not None:
            found.append(got.text)
        return found


class Routed:
    """An outbox with links, over an arena, and the page of its node."""

    def __init__(self, **options: Any) -> None:
        self.lending = Lending(**options)
        self.outbox = self.lending.outbox
        self.outbox.links = True
        self.page = Page()

    def asks(self) -> list[tuple[int, str]]:
        """Take all that leaves now; the asks among it."""
        return [(i.ask.ask, i.ask.topic) for i in self.leaving() if i.HasField("ask")]

    def leaving(self) -> list[bus_pb2.Item]:
        return items_of(taken(self.outbox))

    def asked(self, topic: str = TOPIC) -> int:
        """Send by the node until a route is asked for; the number of the ask."""
        for _ in range(2):
            self.outbox.push(topic, "by the node")
        ((ask, name),) = self.asks()
        assert name == topic
        return ask

    def grant(
        self,
        ask: int,
        *targets: tuple[Link, int],
        window: int = 100,
        held_bytes_max: int = 1 << 30,
        window_bytes: int = 1 << 30,
        matched: int = 1,
        word: int = WORD,
    ) -> bool:
        """Answer as the node does: segments first, then the route."""
        segments = [segment for segment, _, _ in self.lending.arena.segments()]
        for link, _ in targets:
            link.introduce(self.lending.arena)
        return self.outbox.route(
            ask,
            self.page.shown,
            word,
            self.page.shown.word(word),
            [
                (link.writer, cell, window, held_bytes_max, True, window_bytes)
                for link, cell in targets
            ],
            segments,
            matched,
        )

    def live(self, *, topic: str = TOPIC, **grant: Any) -> tuple[Link, int]:
        """A live route to one reader."""
        link = Link()
        cell = link.cell()
        assert self.grant(self.asked(topic), (link, cell), **grant)
        assert self.outbox.route_state(topic) == "live"
        return link, cell
