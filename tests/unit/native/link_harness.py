"""Both ends of links in one process, and mailboxes that take from them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from sira import _native
from sira.v1 import bus_pb2, message_pb2

from .client_harness import SUBSCRIPTION, Box

TOPIC = "lab.x"
STAMP: bytes = message_pb2.Message(principal="alice", tenant="lab").SerializeToString()


def ends(
    *, slots: int, holds: int, cells: int
) -> tuple[_native.ShmLink, _native.ShmWriter, _native.ShmReader]:
    """Make a link: the node's mapping, its writer and its reader, each with one of its own."""
    node = _native.ShmLink(7, slots=slots, holds=holds, cells=cells)
    to_reader, to_writer = _native.shm_bell(), _native.shm_bell()

    def mapped() -> _native.ShmLink:
        fd = os.dup(node.fileno())
        return _native.ShmLink(7, slots=slots, holds=holds, cells=cells, fd=fd)

    writer = _native.ShmWriter(mapped(), to_reader, to_writer)
    return node, writer, _native.ShmReader(mapped(), os.dup(to_writer), os.dup(to_reader))


class Link:
    """One link, its writer and its reader; each end has a mapping of its own."""

    def __init__(
        self,
        *,
        slots: int = 64,
        holds: int = 64,
        cells: int = 16,
        window: int = 1000,
        held_bytes_max: int = 1 << 30,
    ) -> None:
        self.node, self.writer, self.reader = ends(slots=slots, holds=holds, cells=cells)
        for cell in range(cells):
            self.writer.open_cell(cell, window, held_bytes_max)
        self.arena = _native.ShmArena(64 << 20)
        self._known: set[int] = set()

    def introduce(self) -> None:
        """What the node does: hand the reader the segments that it lacks."""
        for segment, fd, size in self.arena.segments():
            if segment not in self._known:
                self.reader.map(segment, os.dup(fd), size)
                self._known.add(segment)

    def post(self, body: object, cell: int = 0, topic: str = TOPIC, **options: Any) -> int:
        """Post a message; the ticket, or -status."""
        made = _native.Options(**options) if options else None
        post = _native.ShmPost(topic, body, made, self.arena)
        self.introduce()
        return self.writer.post(post, cell)

    def send(self, *bodies: object, cell: int = 0, topic: str = TOPIC, **options: Any) -> None:
        """Post messages that have room."""
        for body in bodies:
            assert self.post(body, cell, topic, **options) > 0

    def counts(self, cell: int = 0) -> tuple[int, int, int]:
        """What the node sees of a cell: posted, taken, pending. Expired ones are the rest."""
        counts, sane = self.node.counts()
        assert sane
        return counts[cell][:3] if cell in counts else (0, 0, 0)


def bound(*topics: str, **options: Any) -> tuple[Link, Box]:
    """A link whose first cells, one for each topic, are bound to one mailbox."""
    link, box = Link(**options), Box()
    for cell, topic in enumerate(topics or (TOPIC,)):
        box.bind(link.reader, cell, topic, STAMP)
    return link, box


def cell_open(
    cell: int = 0,
    topic: str = TOPIC,
    *,
    link: int = 1,
    subscription: int = SUBSCRIPTION,
    stamp: bytes = STAMP,
) -> bus_pb2.Item:
    """Make what the node says when a publisher's messages will be in `cell`."""
    return bus_pb2.Item(
        cell_open=bus_pb2.CellOpen(
            subscription=subscription, link=link, cell=cell, topic=topic, stamp=stamp
        )
    )


def cell_end(cell: int = 0, *, link: int = 1) -> bus_pb2.Item:
    """Make what the node says when it has closed its books of `cell`."""
    return bus_pb2.Item(cell_end=bus_pb2.CellEnd(link=link, cell=cell))


def texts(messages: Iterable[_native.Message | None]) -> list[str]:
    """Return their text bodies."""
    return [m.text for m in messages if m is not None]
