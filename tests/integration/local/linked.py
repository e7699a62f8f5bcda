"""Clients that hand each other messages past the node, honest or not: the C ends, and records."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import mmap
import os
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from sira import _native
from sira.kernel.local import record
from sira.kernel.local.channel import Channel, Record
from sira.kernel.node import Node
from sira.v1 import bus_pb2, kernel_pb2, message_pb2, socket_pb2

from .lenders import WINDOW_BYTES, Peer, connected
from .raw import run, running, until

CELL_OPEN, CELL_END = 18, 19


class Linked(Peer):
    """One connection that takes links. What it is told is kept; it does nothing by itself."""

    def __init__(self, channel_of: Callable[[Peer], Channel]) -> None:
        super().__init__(channel_of)
        self.writers: dict[int, _native.ShmWriter] = {}
        self.readers: dict[int, _native.ShmReader] = {}
        self.memories: dict[int, _native.ShmLink] = {}
        self.links_over: list[int] = []
        self.routes: dict[int, socket_pb2.SocketRoute] = {}
        self.page: mmap.mmap | None = None
        self.linked_segments: dict[tuple[int, int], int] = {}  # (link, segment) -> bytes
        self.gone_of_links: list[tuple[int, list[int]]] = []
        self._last_ask = 0

    # ---- what it says ----------------------------------------------------------------------------

    def ask(self, call: int, topic: str, number: int = 0) -> int:
        """Ask for a route; return the number of the ask."""
        self._last_ask = number or self._last_ask + 1
        ask = bus_pb2.RouteAsk(ask=self._last_ask, topic=topic)
        self.say(call, bus_pb2.Item(ask=ask))
        return self._last_ask

    def left(self, *asks: int) -> None:
        self.channel.send(record.ROUTE_LEFT, 0, record.asks(asks))

    def links_are_over(self, *links: int) -> None:
        self.channel.send(record.LINK_OVER, 0, record.links(links))

    def send(self, call: int, topic: str, **fields: object) -> None:
        """Send a message by the node."""
        made = message_pb2.Message(id=_native.new_id(), topic=topic, **fields)  # type: ignore[arg-type]
        self.say(call, bus_pb2.Item(message=made))

    # ---- what it hears ---------------------------------------------------------------------------

    async def answer(self, ask: int) -> socket_pb2.SocketRoute:
        """Wait for the answer to an ask."""
        await until(lambda: self.over or ask in self.routes)
        assert not self.over, (self.error, self.statuses)
        return self.routes[ask]

    async def granted(self, call: int, topic: str) -> socket_pb2.SocketRoute:
        """Ask, and wait for a route, whose cells are open then."""
        route = await self.answer(self.ask(call, topic))
        assert not route.refused, route.refused
        for target in route.targets:
            cell = target.cell, target.window, target.held_bytes_max
            self.writers[target.link].open_cell(*cell)
        return route

    def post(self, route: socket_pb2.SocketRoute, topic: str, text: str = "x") -> list[int]:
        """Post to all targets, whether the word has moved or not; return the tickets."""
        post = _native.ShmPost(topic, text, None)
        return [self.writers[each.link].post(post, each.cell) for each in route.targets]

    def word(self, route: socket_pb2.SocketRoute) -> int:
        assert self.page is not None
        value: int = struct.unpack_from("<Q", self.page, 8 * route.word)[0]
        return value

    def memory_of(self, link: int) -> mmap.mmap:
        """Map a link that this end writes once more, as whoever wants to write into it can."""
        return mmap.mmap(self.memories[link].fileno(), self.memories[link].bytes)

    def cells_open(self) -> list[bus_pb2.CellOpen]:
        return [each.cell_open for each in self.items if each.HasField("cell_open")]

    def cells_ended(self) -> list[tuple[int, int]]:
        ended = [each.cell_end for each in self.items if each.HasField("cell_end")]
        return [(each.link, each.cell) for each in ended]

    def taken_from(self, link: int, cell: int) -> list[_native.Message]:
        """Take all that waits in a cell."""
        reader, found = self.readers[link], []
        reader.look(True)
        while (message := reader.take(cell)) is not None:
            found.append(message)
        return found

    def taken(self, records: list[Record]) -> None:
        for each in records:
            kind, _, descriptors, body = each
            if kind == record.LINK:
                self._link(record.read_link(body, descriptors))
            elif kind == record.LINK_OVER:
                self.links_over.extend(record.read_links(body))
            elif kind == record.PAGE:
                words = record.read_page(body, descriptors)
                (fd,) = self.channel.take_descriptors(descriptors)
                self.page = mmap.mmap(fd, 8 * words, prot=mmap.PROT_READ)
                os.close(fd)
            elif kind == record.ROUTE:
                route = record.read_route(body)
                self.routes[route.ask] = route
            elif kind == record.SEGMENT and record.read_segment(body, descriptors).link:
                found = record.read_segment(body, descriptors)
                (fd,) = self.channel.take_descriptors(descriptors)
                self.readers[found.link].map(found.segment, fd, found.bytes)
                self.linked_segments[found.link, found.segment] = found.bytes
            elif kind == record.GONE and record.read_segments_of(body)[0]:
                self.gone_of_links.append(record.read_segments_of(body))
            else:
                super().taken([each])

    def _link(self, found: socket_pb2.SocketLink) -> None:
        memory, rings, rung = self.channel.take_descriptors(record.LINK_DESCRIPTORS)
        shape = {"slots": found.slots, "holds": found.holds, "cells": found.cells}
        link = _native.ShmLink(found.generation, fd=memory, **shape)
        self.memories[found.link] = link
        if found.writes:
            self.writers[found.link] = _native.ShmWriter(link, rings, rung)
        else:
            self.readers[found.link] = _native.ShmReader(link, rings, rung)

    def close(self) -> None:
        super().close()
        self.memories.clear()
        self.writers.clear()
        self.readers.clear()
        if self.page is not None:
            self.page.close()


@asynccontextmanager
async def linked(
    node: Node, *, who: str = "", links: bool = True, window_bytes: int = WINDOW_BYTES
) -> AsyncIterator[Linked]:
    """Connect a client that says that it takes links; `who`: see `lenders.lending`."""
    async with connected(
        node, Linked, who=who, window_bytes=window_bytes, lends=True, links=links
    ) as peer:
        assert isinstance(peer, Linked)
        yield peer


async def ledger_row(node: Node, topic: str) -> kernel_pb2.LedgerRow | None:
    """Return the row of a topic as the hub has it, links counted."""
    from sira.kernel import ledger

    for _ in node.direct.look():
        await asyncio.sleep(0)
    found = node.bus.hub.row(topic)
    if found is None:
        return None
    made = ledger.row(found, node="n1")
    assert ledger.difference(made) == 0, made
    return made


def descriptors() -> int:
    """Return how many this process has open, but for the words of each hub, which stay."""
    count = 0
    for fd in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that the folder was read by
            count += "sira-page" not in os.readlink(f"/proc/self/fd/{fd}")
    return count


def on_node(folder: Path, work: Callable[[Node], Awaitable[None]], **flags: object) -> None:
    """Run a test on a node of its own; afterwards no link, and no descriptor, is left."""

    async def with_node() -> None:
        async with running(folder, **flags) as node:
            gc.collect()
            before = descriptors()
            await work(node)
            await until(lambda: not len(node.local))
            gc.collect()
            await until(lambda: not node.direct.links and not node.direct.routes)
            await until(lambda: not node.lent.held.segments)
            await until(lambda: descriptors() <= before)

    run(with_node)
