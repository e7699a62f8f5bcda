"""Links on the node's socket: the records that make them, and the ends that this client holds.

`LinkWay` is one connection's part. What goes over the links, and when, is direct.py's.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Protocol

from sira import _native
from sira.kernel.errors import BadRequest, LinkCorrupt, ProtocolError, QuotaExceeded
from sira.kernel.local import record
from sira.kernel.local.channel import Channel
from sira.v1 import socket_pb2

_log = logging.getLogger("sira.client")

_SWITCH_VARIABLE = "SIRA_DIRECT"


def direct_wanted() -> bool:
    """Return whether messages may pass the node by.

    Raises:
        BadRequest: the environment says something else than a switch.
    """
    switch = os.environ.get(_SWITCH_VARIABLE, "") or "on"
    if switch not in ("on", "off"):
        raise BadRequest(f"{_SWITCH_VARIABLE} = {switch[:40]!r} is neither on nor off")
    return switch == "on"


class LinkOwner(Protocol):
    """The client, as far as a connection's links need it."""

    def reads(self, number: int, reader: _native.ShmReader) -> None:
        """Take a new end that reads."""

    def reader_over(self, number: int) -> None:
        """Take note that nobody writes there any more."""

    def writer_over(self, number: int, writer: _native.ShmWriter) -> None:
        """Take note that nobody reads there any more."""

    def routed(self, route: socket_pb2.SocketRoute) -> None:
        """Take the answer to an ask."""


class LinkWay:
    """The links of one connection. Belongs to its loop."""

    def __init__(self, channel: Channel) -> None:
        """Begin; both sides have said that they take links."""
        self._channel = channel
        self.owner: LinkOwner | None = None  # set as soon as there are calls
        self.readers: dict[int, _native.ShmReader] = {}
        self.writers: dict[int, _native.ShmWriter] = {}
        self.page: _native.ShmPage | None = None

    # ---- from the node ---------------------------------------------------------------------------

    def take(self, kind: int, descriptors: int, body: bytes) -> None:
        """Take one record of the node in.

        Raises:
            ProtocolError: the record is not what it should be.
        """
        if kind == record.LINK:
            self._introduced(descriptors, body)
        elif kind == record.PAGE:
            words = record.read_page(body, descriptors)
            if self.page is not None:
                raise ProtocolError("a second page of the node")
            passed = self._channel.take_descriptors(descriptors)
            try:
                self.page = _native.ShmPage(passed[0], words)
            except BaseException:  # not taken over
                os.close(passed[0])
                raise
        elif descriptors:
            self._channel.refuse_descriptors(descriptors)
        elif kind == record.LINK_OVER:
            for number in record.read_links(body):
                self._over(number)
        elif kind == record.ROUTE and self.owner is not None:
            self.owner.routed(record.read_route(body))
        else:
            raise ProtocolError(f"a record of kind {kind} from the node")

    def _introduced(self, descriptors: int, body: bytes) -> None:
        said = record.read_link(body, descriptors)
        ends: dict[int, _native.ShmWriter] | dict[int, _native.ShmReader]
        ends = self.writers if said.writes else self.readers
        if said.link in ends or self.owner is None:
            raise ProtocolError(f"link {said.link} comes out of turn")
        try:
            passed = self._channel.take_descriptors(descriptors)
        except QuotaExceeded as error:  # this process may open no more files
            _log.warning("a link cannot be taken, messages go by the node: %s", error)
            self.give_up([said.link])
            return
        try:
            self._take_end(said, passed)
        except (LinkCorrupt, OSError) as error:
            _log.warning("link %d cannot be used, messages go by the node: %s", said.link, error)
            self.give_up([said.link])

    def _take_end(self, said: socket_pb2.SocketLink, passed: list[int]) -> None:
        """Make the end of a link. Raises LinkCorrupt, OSError: it is none; all is closed then."""
        assert self.owner is not None, "asked before"
        memory, peer, own = passed
        kept = [memory, peer, own]  # what nobody has taken over yet
        try:
            link = _native.ShmLink(
                said.generation, slots=said.slots, holds=said.holds, cells=said.cells, fd=memory
            )
            kept.remove(memory)
            if said.writes:
                self.writers[said.link] = _native.ShmWriter(link, peer, own)
                kept.clear()
            else:
                reader = self.readers[said.link] = _native.ShmReader(link, peer, own)
                kept.clear()
                self.owner.reads(said.link, reader)
        except ValueError as error:  # sizes that no link has
            raise LinkCorrupt(str(error)) from None
        finally:
            for each in kept:
                os.close(each)

    def map(self, segment: socket_pb2.SocketSegment, descriptor: int) -> None:
        """Map a publisher's segment for the reader of a link, taking the descriptor over.

        Raises:
            LinkCorrupt: it is none; not taken over then.
        """
        reader = self.readers.get(segment.link)
        if reader is None:  # given up; the two have crossed
            os.close(descriptor)
            return
        try:
            reader.map(segment.segment, descriptor, segment.bytes)
        except ValueError:
            raise LinkCorrupt(f"segment {segment.segment} twice on one link") from None

    def drop(self, link: int, segments: Sequence[int]) -> None:
        """Let go of segments in which nothing new will come by a link."""
        reader = self.readers.get(link)
        if reader is not None:
            for each in segments:
                reader.drop(each)

    def _over(self, number: int) -> None:
        writer = self.writers.pop(number, None)
        is_read = self.readers.pop(number, None) is not None
        if self.owner is None:
            return
        if writer is not None:
            self.owner.writer_over(number, writer)
        if is_read:
            self.owner.reader_over(number)

    def over(self) -> None:
        """Let go of all: the connection is over. Who uses an end still has it."""
        self.owner = self.page = None
        self.readers.clear()
        for writer in self.writers.values():
            writer.forsake()  # its reader goes on without the node, too
        self.writers.clear()

    # ---- to the node -----------------------------------------------------------------------------

    def give_up(self, links: Sequence[int]) -> None:
        """Say that these are not used any more, and forget them."""
        for each in links:
            self.writers.pop(each, None)
            self.readers.pop(each, None)
        self._channel.send(record.LINK_OVER, 0, record.links(links))

    def give_back(self, asks: Sequence[int]) -> None:
        """Say that the routes of these asks are not used any more."""
        if asks:
            self._channel.send(record.ROUTE_LEFT, 0, record.asks(asks))
